// Jaeger's own collector, memory store and query service in one process, without its databases: the backend that tests
// ask for the traces that sidecars sent. It says on one line where it listens, and ends when it is told to.
//
// Ports are looked for before they are taken, for Jaeger does not say which one the system gave it; who starts this
// tries again when another process was faster.
package main

import (
	"context"
	"encoding/json"
	"log"
	"net"
	"os"
	"os/signal"
	"syscall"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	collector "github.com/jaegertracing/jaeger/cmd/collector/app"
	collectorflags "github.com/jaegertracing/jaeger/cmd/collector/app/flags"
	query "github.com/jaegertracing/jaeger/cmd/query/app"
	"github.com/jaegertracing/jaeger/cmd/query/app/querysvc"
	"github.com/jaegertracing/jaeger/pkg/healthcheck"
	"github.com/jaegertracing/jaeger/pkg/jtracer"
	"github.com/jaegertracing/jaeger/pkg/metrics"
	"github.com/jaegertracing/jaeger/pkg/tenancy"
	"github.com/jaegertracing/jaeger/plugin/sampling/strategystore/static"
	"github.com/jaegertracing/jaeger/plugin/storage/memory"
)

// Spans that wait to be stored.
const queueMax = 2000

// Doors is where the parts listen.
type Doors struct {
	OTLPGRPC string `json:"otlpGrpc"`
	OTLPHTTP string `json:"otlpHttp"`
	Query    string `json:"query"`
}

func main() {
	logger, err := zap.NewDevelopment(zap.IncreaseLevel(zapcore.WarnLevel))
	check(err)
	health := healthcheck.New()
	nobody := tenancy.NewManager(&tenancy.Options{})

	store := memory.NewFactory()
	check(store.Initialize(metrics.NullFactory, logger))
	reader, err := store.CreateSpanReader()
	check(err)
	writer, err := store.CreateSpanWriter()
	check(err)
	links, err := store.CreateDependencyReader()
	check(err)
	sampling, err := static.NewStrategyStore(static.Options{}, logger)
	check(err)

	doors := Doors{OTLPGRPC: free(), OTLPHTTP: free(), Query: free()}
	options := &collectorflags.CollectorOptions{QueueSize: queueMax, NumWorkers: 2}
	options.GRPC.HostPort, options.HTTP.HostPort = "127.0.0.1:0", "127.0.0.1:0"
	options.OTLP.Enabled = true
	options.OTLP.GRPC.HostPort, options.OTLP.HTTP.HostPort = doors.OTLPGRPC, doors.OTLPHTTP
	taker := collector.New(&collector.CollectorParams{
		ServiceName:    "jaeger-collector",
		Logger:         logger,
		MetricsFactory: metrics.NullFactory,
		SpanWriter:     writer,
		StrategyStore:  sampling,
		HealthCheck:    health,
		TenancyMgr:     nobody,
	})
	check(taker.Start(options))

	service := querysvc.NewQueryService(reader, links, querysvc.QueryServiceOptions{})
	asked := &query.QueryOptions{HTTPHostPort: doors.Query, GRPCHostPort: doors.Query}
	server, err := query.NewServer(logger, health, service, nil, asked, nobody, jtracer.NoOp())
	check(err)
	check(server.Start())

	check(json.NewEncoder(os.Stdout).Encode(doors))
	stop, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer cancel()
	<-stop.Done()
	check(server.Close())
	check(taker.Close())
}

// free is an address on loopback that nobody listens at right now.
func free() string {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	defer listener.Close()
	return listener.Addr().String()
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
