// Command conformance serves the application of package app, against which black-box test suites of
// the Phoenix wire protocol run.
//
// The environment variable PORT overrides the port of -addr. IDLE_TIMEOUT_MS and WINDOW_MS set
// timeouts. RECORD_KEEP sets the number of records that are kept of a topic rec:*.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/rs/zerolog"

	"bennu.example/internal/conformance/app"
	"bennu.example/socket"
)

func main() {
	addr := flag.String("addr", "127.0.0.1:4100", "address to listen on")
	flag.Parse()
	if err := run(*addr); err != nil {
		fmt.Fprintln(os.Stderr, "conformance:", err)
		os.Exit(1)
	}
}

func run(addr string) error {
	if port := os.Getenv("PORT"); port != "" {
		addr = net.JoinHostPort("127.0.0.1", port)
	}
	log := zerolog.New(os.Stderr).Level(zerolog.ErrorLevel)
	cfg := app.Config{Logger: &log}
	times := map[string]*time.Duration{"IDLE_TIMEOUT_MS": &cfg.IdleTimeout, "WINDOW_MS": &cfg.Window}
	if os.Getenv("AUTH") == "1" {
		cfg.Auth = &socket.Auth{Notice: 2 * time.Second, Grace: time.Second}
		times["AUTH_NOTICE_MS"], times["AUTH_GRACE_MS"] = &cfg.Auth.Notice, &cfg.Auth.Grace
	}
	for name, to := range times {
		if v := os.Getenv(name); v != "" {
			ms, err := strconv.Atoi(v)
			if err != nil || ms <= 0 {
				return fmt.Errorf("%s=%q is not a positive number of milliseconds", name, v)
			}
			*to = time.Duration(ms) * time.Millisecond
		}
	}
	if v := os.Getenv("RECORD_KEEP"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil || n <= 0 {
			return fmt.Errorf("RECORD_KEEP=%q is not a positive number", v)
		}
		cfg.RecordKeep = n
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	a := app.New(cfg)
	server := &http.Server{Handler: a, ReadHeaderTimeout: 10 * time.Second}
	fmt.Printf("listening on http://%s/socket\n", l.Addr())

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	end, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return errors.Join(a.Shutdown(end), server.Shutdown(end))
}
