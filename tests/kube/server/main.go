// A small MCP server over HTTP, of the era of sessions, in one static program: what a container of tests runs. It knows
// nothing of Weft. `pipe` serves on stdin and stdout instead; `call URL TOOL` is a client, which calls a tool once and ends; `farewell URL TOOL`
// one that calls it twice, with pauses, when it is told to end.
package main

import (
	"context"
	"encoding/json"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

type message struct {
	ID     json.RawMessage `json:"id"`
	Method string          `json:"method"`
	Params struct {
		Name      string `json:"name"`
		Arguments struct {
			Name         string `json:"name"`
			Milliseconds int    `json:"milliseconds"`
		} `json:"arguments"`
	} `json:"params"`
}

type object = map[string]any

var tools = []object{
	{"name": "greet", "description": "Greets", "inputSchema": object{"type": "object"}},
	{"name": "wait", "description": "Greets after a while", "inputSchema": object{"type": "object"}},
	{"name": "sicken", "description": "Fails the probes from now on", "inputSchema": object{"type": "object"}},
	{"name": "words", "description": "Greets those that it was started with", "inputSchema": object{"type": "object"}},
	{"name": "destroy", "description": "Destroys nothing", "inputSchema": object{"type": "object"}},
}

// Whether somebody made it sick, so that it says so to probes until it is started again.
var sick atomic.Bool

// What there is to say to a request.
func answer(asked *message) any {
	switch asked.Method {
	case "initialize":
		return object{
			"protocolVersion": "2025-11-25",
			"capabilities":    object{"tools": object{}},
			"serverInfo":      object{"name": "small", "version": "1"},
		}
	case "ping":
		return object{}
	case "tools/list":
		return object{"tools": tools}
	case "tools/call":
		if asked.Params.Name == "sicken" {
			sick.Store(true)
		}
		wait := min(asked.Params.Arguments.Milliseconds, 20_000)
		time.Sleep(time.Duration(wait) * time.Millisecond)
		name := asked.Params.Arguments.Name
		if asked.Params.Name == "words" {
			name = strings.Join(os.Args[2:], " ")
		}
		said := "Hello, " + name + "!"
		return object{"content": []object{{"type": "text", "text": said}}}
	}
	return nil
}

// What there is to write back to a message; nothing to one that asks for nothing.
func reply(asked *message) object {
	if asked.ID == nil {
		return nil
	}
	said := object{"jsonrpc": "2.0", "id": asked.ID}
	if result := answer(asked); result != nil {
		said["result"] = result
	} else {
		said["error"] = object{"code": -32601, "message": "no such method"}
	}
	return said
}

// Serves lines on its pipes until there are no more, and then until all are answered.
func pipe() {
	var answering sync.WaitGroup
	var writing sync.Mutex
	written := json.NewEncoder(os.Stdout)
	asking := json.NewDecoder(os.Stdin)
	for {
		var asked message
		if asking.Decode(&asked) != nil {
			answering.Wait()
			return
		}
		answering.Go(func() {
			if said := reply(&asked); said != nil {
				writing.Lock()
				defer writing.Unlock()
				_ = written.Encode(said)
			}
		})
	}
}

func serve(to http.ResponseWriter, from *http.Request) {
	if from.Method != http.MethodPost {
		to.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	var asked message
	if err := json.NewDecoder(http.MaxBytesReader(to, from.Body, 1<<20)).Decode(&asked); err != nil {
		http.Error(to, err.Error(), http.StatusBadRequest)
		return
	}
	said := reply(&asked)
	if said == nil {
		to.WriteHeader(http.StatusAccepted)
		return
	}
	to.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(to).Encode(said)
}

func health(to http.ResponseWriter, _ *http.Request) {
	if sick.Load() {
		to.WriteHeader(http.StatusInternalServerError)
	}
}

func main() {
	if len(os.Args) == 4 && os.Args[1] == "call" {
		os.Exit(call(os.Args[2], os.Args[3]))
	}
	if len(os.Args) == 4 && os.Args[1] == "farewell" {
		os.Exit(farewell(os.Args[2], os.Args[3]))
	}
	if len(os.Args) > 1 && os.Args[1] == "pipe" {
		pipe()
		return
	}
	at := "127.0.0.1:8080"
	if len(os.Args) > 1 {
		at = os.Args[1]
	}
	http.HandleFunc("/mcp", serve)
	http.HandleFunc("/healthz", health)
	server := &http.Server{Addr: at}
	told, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		<-told.Done()
		ends, cancel := context.WithTimeout(context.Background(), 25*time.Second)
		defer cancel()
		_ = server.Shutdown(ends)
	}()
	if err := server.ListenAndServe(); err != http.ErrServerClosed {
		println(err.Error())
		os.Exit(1)
	}
	// Not before all that were asked are answered.
	<-ended
}
