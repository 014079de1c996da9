// Package embedded runs a NATS server in this process, for programs that do not want to depend on
// another one.
//
// It is a package of its own so that other programs that use natsengine are not linked with a
// server, which has more than 10 MB.
//
// A single process has its history on disk:
//
//	srv, err := embedded.Start(embedded.Config{Dir: "/var/lib/app/nats"})
//	engine, err := natsengine.New(natsengine.Config{Options: []nats.Option{srv.Option()}})
//	ps := pubsub.NewRecorded(engine.Adapter(), engine.History(), rules)
//
// Further nodes connect to it by Config.Addr. For nodes that must survive each other, run NATS
// servers of their own.
package embedded

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"

	"bennu.example/logging"
)

// startTimeout limits how long the server may take to start. It reads the directory.
const startTimeout = 30 * time.Second

// defaultMaxPayload is the largest message. It has room for a record of the default size.
const defaultMaxPayload = 2 << 20

var (
	errDir   = errors.New("no directory")
	errStart = errors.New("the server did not start in time")
)

// Config configures a Server.
type Config struct {
	// Dir is the directory of the data. It is created if it does not exist. Only one server may use it
	// at a time.
	Dir string
	// Sync makes the server sync the file before it confirms a record, so that a power failure loses
	// nothing. It is much slower.
	Sync bool
	// Addr is the TCP address on which other nodes can connect, such as "127.0.0.1:4222". The server
	// does not ask for a password. Empty means that only this process can connect.
	Addr string
	// MaxPayload is the largest size of a message. Zero means 2 MiB.
	MaxPayload int
	// Logger receives warnings and errors of the server. Nil means warnings and errors on standard
	// error; zerolog.Nop is silent.
	Logger *zerolog.Logger
}

// Server is a running NATS server. The creator must call Close, after PubSub.Run has returned.
type Server struct {
	srv  *server.Server
	addr string
}

// Start starts a server. It returns when the server can be used.
func Start(cfg Config) (*Server, error) {
	opts, err := options(cfg)
	if err != nil {
		return nil, fmt.Errorf("embedded: %w", err)
	}
	srv, err := server.NewServer(opts)
	if err != nil {
		return nil, fmt.Errorf("embedded: %w", err)
	}
	srv.SetLoggerV2(logger{*cmp.Or(cfg.Logger, logging.Default())}, false, false, false)
	s := &Server{srv: srv, addr: cfg.Addr}
	srv.Start()
	if !srv.ReadyForConnections(startTimeout) || !srv.JetStreamEnabled() {
		s.Close()
		return nil, fmt.Errorf("embedded: %w", errStart)
	}
	if cfg.Addr != "" {
		s.addr = srv.Addr().String()
	}
	return s, nil
}

func options(cfg Config) (*server.Options, error) {
	if cfg.Dir == "" {
		return nil, errDir
	}
	o := &server.Options{
		ServerName: "bennu", JetStream: true, StoreDir: cfg.Dir, SyncAlways: cfg.Sync,
		DontListen: cfg.Addr == "", NoSigs: true, MaxPayload: defaultMaxPayload,
	}
	if cfg.MaxPayload > 0 {
		o.MaxPayload = int32(min(cfg.MaxPayload, 64<<20)) //nolint:gosec // it fits
	}
	if cfg.Addr != "" {
		host, port, err := net.SplitHostPort(cfg.Addr)
		if err != nil {
			return nil, err
		}
		if o.Host = host; port != "0" {
			if o.Port, err = strconv.Atoi(port); err != nil {
				return nil, err
			}
		} else {
			o.Port = server.RANDOM_PORT
		}
	}
	return o, nil
}

// Option returns the option for natsengine.Config.Options with which an engine uses the server
// without the network.
func (s *Server) Option() nats.Option { return nats.InProcessServer(s.srv) }

// Addr returns the address on which the server listens. Empty means that it does not.
func (s *Server) Addr() string { return s.addr }

// Close stops the server and waits for its end.
func (s *Server) Close() {
	s.srv.Shutdown()
	s.srv.WaitForShutdown()
}

// logger passes on what an operator should know.
type logger struct{ log zerolog.Logger }

func (l logger) Fatalf(format string, v ...any) { write(l.log.Error(), format, v) }
func (l logger) Errorf(format string, v ...any) { write(l.log.Error(), format, v) }
func (l logger) Warnf(format string, v ...any)  { write(l.log.Warn(), format, v) }
func (logger) Noticef(string, ...any)           {}
func (logger) Debugf(string, ...any)            {}
func (logger) Tracef(string, ...any)            {}

func write(e *zerolog.Event, format string, v []any) {
	e.Str("text", fmt.Sprintf(format, v...)).Msg("nats server")
}
