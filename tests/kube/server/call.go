package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

// Calls a tool, as a client of the era without sessions, and prints what it is answered. Zero if that is a result.
func call(url, tool string) int {
	body := `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"` + tool + `","arguments":{"name":"job"},` +
		`"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}}}`
	request, err := http.NewRequest(http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	for name, value := range map[string]string{
		"Content-Type": "application/json", "Accept": "application/json, text/event-stream",
		"MCP-Protocol-Version": "2026-07-28", "Mcp-Method": "tools/call", "Mcp-Name": tool,
	} {
		request.Header.Set(name, value)
	}
	// A connection for each call: nothing of this program is open between two.
	client := http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Do(request)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer response.Body.Close()
	var said struct{ Result, Error json.RawMessage }
	if err := json.NewDecoder(http.MaxBytesReader(nil, response.Body, 1<<20)).Decode(&said); err != nil {
		fmt.Fprintln(os.Stderr, response.Status, err)
		return 1
	}
	fmt.Println(string(said.Result), string(said.Error))
	if said.Result == nil {
		return 1
	}
	return 0
}

// Waits until it is told to end, and has something left to do then that takes a while. Zero if all of it could be done.
func farewell(url, tool string) int {
	told := make(chan os.Signal, 1)
	signal.Notify(told, syscall.SIGTERM)
	<-told
	for range 2 {
		time.Sleep(1500 * time.Millisecond)
		if code := call(url, tool); code != 0 {
			return code
		}
	}
	return 0
}
