package natsengine_test

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/rs/zerolog"

	"bennu.example/engine/internal/broker/brokertest"
	"bennu.example/engine/natsengine"
	"bennu.example/history"
	"bennu.example/history/historytest"
)

// withJetStream lets a server store streams in a directory of the test.
func withJetStream(t testing.TB) func(*server.Options) {
	dir := t.TempDir()
	return func(o *server.Options) {
		o.JetStream, o.StoreDir, o.MaxPayload = true, dir, 8<<20
		o.MaxPending = 64 << 20
	}
}

// newLog returns a log that notices faults soon.
func newLog(t testing.TB, cfg natsengine.Config) history.Log {
	t.Helper()
	return newEngine(t, cfg).History()
}

// newEngine returns an engine that notices faults soon.
func newEngine(t testing.TB, cfg natsengine.Config) *natsengine.Engine {
	t.Helper()
	cfg.Timeout, cfg.Ping = brokertest.Timeout, brokertest.Ping
	if cfg.Logger == nil {
		cfg.Logger = new(zerolog.Nop())
	}
	e, err := natsengine.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestHistory(t *testing.T) {
	historytest.Run(t, func(t *testing.T) historytest.Engine {
		e := newServer(t, withJetStream(t))
		first, others := brokertest.NewProxy(t, e.addr()), brokertest.NewProxy(t, e.addr())
		images := &logImages{Log: newLog(t, natsengine.Config{URL: first.Addr})}
		images.server = e
		if strings.HasSuffix(t.Name(), "/rollback") { // the other tests append many records at the same time
			images.t = t
		}
		return historytest.Engine{
			Log: images,
			Restart: func(t testing.TB) history.Log {
				e.stop()
				e.start(t)
				return newLog(t, natsengine.Config{URL: e.addr()})
			},
			Node: func(t testing.TB) history.Log { return newLog(t, natsengine.Config{URL: others.Addr}) },
			Freeze: func(testing.TB) func() {
				first.Stall()
				others.Stall()
				return func() { first.Resume(); others.Resume() }
			},
			Disconnect: func(testing.TB) func() { first.Stall(); first.Cut(); return first.Resume },
			Rollback: func(t testing.TB, _ string, n int) {
				images.rollback(t, n, func() error {
					_, err := images.Tops(t.Context(), []string{"t"})
					return err
				})
			},
			Topics:  e.topics,
			Durable: true, KeepsEpoch: true, MoreBytes: true,
			Skips: []string{"LoseRecords", "LoseMeta"},
		}
	})
}

// topics returns the number of topics in the stream, without the landmarks.
func (e *testServer) topics(t testing.TB) int {
	nc := e.connect(t)
	defer nc.Close()
	js, err := nc.JetStream()
	if err != nil {
		t.Fatal(err)
	}
	info, err := js.StreamInfo("bennu")
	if err != nil {
		t.Fatal(err)
	}
	return int(info.State.NumSubjects) - 1 //nolint:gosec // it fits
}

// logImages is a log that keeps images of the server's directory, as it was after each append.
type logImages struct {
	history.Log
	images
}

func (i *logImages) Append(
	ctx context.Context, topic string, r history.Record, k history.Keep,
) (history.Record, error) {
	r, err := i.Log.Append(ctx, topic, r, k)
	if err == nil {
		i.take()
	}
	return r, err
}

// images are copies of a server's directory, as long as there are few.
type images struct {
	server *testServer
	dirs   []string
	t      testing.TB // Nil means that there are none.
}

// maxImages bounds the images.
const maxImages = 20

func (i *images) take() {
	if i.t == nil || len(i.dirs) == maxImages {
		return
	}
	i.dirs = append(i.dirs, filepath.Join(i.t.TempDir(), strconv.Itoa(len(i.dirs))))
	if err := os.CopyFS(i.dirs[len(i.dirs)-1], os.DirFS(i.server.opts.StoreDir)); err != nil {
		i.t.Error(err)
	}
}

// rollback restores the directory as it was before the last n images, and waits until the engine
// answers.
func (i *images) rollback(t testing.TB, n int, answers func() error) {
	i.server.stop()
	dir := i.dirs[len(i.dirs)-1-n]
	if err := os.RemoveAll(i.server.opts.StoreDir); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(i.server.opts.StoreDir, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	i.server.start(t)
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) { // polling
		if err := answers(); err == nil {
			return
		} else if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}
