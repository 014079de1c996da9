// Command bennu talks to Phoenix channels from a terminal, a pipe or a script.
//
//	go run ./cmd/bennu join localhost:4000/socket room:lobby --params '{"user":"ann"}'
//	go run ./cmd/bennu push localhost:4000/socket room:lobby new_msg '{"body":"hello"}' --params '{"user":"ann"}'
//
// It works against Bennu and against any Phoenix server. The guide docs/command-line.md describes
// the commands, their output and their exit codes.
package main

import (
	"context"
	"io"
	"net/http"
	"os"
	"os/signal"
	"syscall"

	"github.com/mattn/go-isatty"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C exits immediately
	a := &app{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, terminal: isTerminal(os.Stdout)}
	os.Exit(a.run(ctx, os.Args[1:]))
}

func isTerminal(f *os.File) bool { return isatty.IsTerminal(f.Fd()) || isatty.IsCygwinTerminal(f.Fd()) }

// app is one run of the command. Tests replace its streams and its network.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	terminal       bool         // stdout is a terminal: print text, not JSON
	http           *http.Client // sends all requests. Nil means one without settings
}
