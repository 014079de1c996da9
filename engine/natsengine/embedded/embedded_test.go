package embedded_test

import (
	"context"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"bennu.example/engine/natsengine"
	"bennu.example/engine/natsengine/embedded"
	"bennu.example/history"
	"bennu.example/internal/testenv/leak"
	"bennu.example/serializer"
)

func TestMain(m *testing.M) { leak.Main(m) }

// use appends count records in a process that uses a server, and returns all records after a
// position. The zero Position means the beginning.
func use(t *testing.T, cfg natsengine.Config, count int, after history.Position) history.Batch {
	t.Helper()
	engine, err := natsengine.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithTimeout(context.Background(), 30*time.Second)
	done := make(chan error)
	log := engine.History()
	go func() { done <- log.Run(ctx, history.Inbox{}) }()
	defer func() { <-done }()
	defer stop()
	for !log.Health().Connected && ctx.Err() == nil {
		runtime.Gosched()
	}
	if after.IsZero() {
		tops, err := log.Tops(ctx, []string{"t"})
		if err != nil {
			t.Fatal(err)
		}
		after = tops[0]
	}
	for range count {
		r := history.Record{Event: "e", Payload: serializer.Value(struct{}{})}
		if _, err := log.Append(ctx, "t", r, history.Keep{}); err != nil {
			t.Fatal(err)
		}
	}
	b, err := log.Read(ctx, "t", after, 100)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The history survives the process, and other nodes can connect.
func TestRestart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "nats")
	var last history.Position
	for i := range 3 {
		srv, err := embedded.Start(embedded.Config{Dir: dir, Addr: "127.0.0.1:0", Sync: i == 1})
		if err != nil {
			t.Fatal(err)
		}
		b := use(t, natsengine.Config{Options: []nats.Option{srv.Option()}}, 2, last)
		if want := min(2, i+1) * 2; len(b.Records) != want {
			t.Errorf("start %d: got %d records, want %d", i, len(b.Records), want)
		}
		b = use(t, natsengine.Config{URL: srv.Addr()}, 2, b.Top)
		if len(b.Records) != 2 {
			t.Errorf("start %d, by TCP: got %d records", i, len(b.Records))
		}
		last = b.After
		srv.Close()
	}
}

func TestConfig(t *testing.T) {
	for name, cfg := range map[string]embedded.Config{
		"no directory":     {},
		"no port":          {Dir: t.TempDir(), Addr: "127.0.0.1"},
		"a name as a port": {Dir: t.TempDir(), Addr: "127.0.0.1:nats"},
	} {
		if _, err := embedded.Start(cfg); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	srv, err := embedded.Start(embedded.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	if srv.Addr() != "" {
		t.Errorf("it listens on %s", srv.Addr())
	}
	srv.Close()
}
