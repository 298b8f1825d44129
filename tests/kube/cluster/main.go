// A Kubernetes control plane, its client, and the kubelet and the proxy of a node in one program, from their own packages.
// Called by the name kubectl, it is kubectl.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"k8s.io/component-base/cli"
	kubectl "k8s.io/kubectl/pkg/cmd"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllers "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

func main() {
	parts := map[string]func() *cobra.Command{
		"apiserver":          apiserver.NewAPIServerCommand,
		"controller-manager": controllers.NewControllerManagerCommand,
		"kubectl":            kubectl.NewDefaultKubectlCommand,
		"kubelet":            func() *cobra.Command { return kubelet.NewKubeletCommand(context.Background()) },
		"proxy":              proxy.NewProxyCommand,
		"scheduler":          func() *cobra.Command { return scheduler.NewSchedulerCommand() },
	}
	part, args := filepath.Base(os.Args[0]), os.Args[1:]
	if parts[part] == nil && len(args) > 0 {
		part, args = args[0], args[1:]
	}
	if parts[part] == nil {
		fmt.Fprintln(os.Stderr, "usage: cluster apiserver|controller-manager|scheduler|kubectl [flags]")
		os.Exit(2)
	}
	command := parts[part]()
	command.SetArgs(args)
	os.Exit(cli.Run(command))
}
