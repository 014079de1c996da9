package sim

import (
	"context"
	"math/rand/v2"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"bennu.example/channel"
	"bennu.example/history"
	"bennu.example/internal/histcheck"
	"bennu.example/serializer"
	"bennu.example/socket"
)

// goClient is this project's client, which keeps its position by itself. Everything is recorded in
// its callbacks, in whose order the program sees it.
type goClient struct {
	w    *world
	name string
	rnd  *rand.Rand // of run
	slow *rand.Rand // of the callbacks
	calm *atomic.Bool
	ch   *channel.Client

	dials atomic.Int32
}

// dial connects to one server after the other.
func (c *goClient) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	return c.w.dialPipe(ctx, int(c.dials.Add(1))%len(c.w.nodes))
}

func (c *goClient) run(ctx context.Context) {
	nop := zerolog.Nop()
	dial := &http.Transport{DialContext: c.dial, DisableKeepAlives: true}
	sock := socket.NewClient("ws://127.0.0.1:1", &socket.ClientConfig{
		HTTPClient: &http.Client{Transport: dial}, Logger: &nop, MaxBacklog: 8 << 10,
		ReconnectDelay: func(socket.Retry) time.Duration { return 20 * time.Millisecond },
		RejoinAfter:    func(int) time.Duration { return 20 * time.Millisecond },
	})
	c.ch = sock.Channel(topic, map[string]any{"client": c.name, "slow": c.rnd.IntN(30)})
	c.ch.Resume(channel.ResumeConfig{})
	c.ch.OnJoin(c.joined)
	c.ch.OnError(func(error) { c.w.Cut(c.name) })
	c.ch.On("msg", c.received)
	sock.Connect()
	c.ch.Join()
	for sleep(ctx, time.Duration(1+c.rnd.IntN(900))*time.Millisecond) == nil {
		if !c.calm.Load() {
			sock.Pause()
			sock.Connect()
		}
	}
	end, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := sock.Close(end); err != nil {
		c.w.t.Errorf("seed %d: %s: %v", c.w.seed, c.name, err)
	}
}

func (c *goClient) joined(reply serializer.Payload) {
	var r struct {
		Loaded  []string
		Since   history.Position
		Reach   time.Time
		Began   int
		History struct {
			Pos       history.Position
			Recovered bool
			Why       string
		} `json:"$history"`
	}
	if err := reply.Decode(&r); err != nil {
		c.w.t.Errorf("seed %d: %s: %v", c.w.seed, c.name, err)
		return
	}
	h := r.History
	if h.Recovered {
		r.Since = h.Pos
	}
	c.w.Join(c.name, r.Since.String(), true)
	c.w.Joined(c.name, histcheck.Reply{
		Pos: h.Pos.String(), Recovered: h.Recovered, Why: h.Why, Loaded: r.Loaded != nil, Snapshot: r.Loaded,
		Reach: r.Reach, Began: r.Began,
	})
}

func (c *goClient) received(p serializer.Payload) {
	var r struct {
		ID  string
		Pos string `json:"$pos"`
	}
	if err := p.Decode(&r); err != nil {
		c.w.t.Errorf("seed %d: %s: %v", c.w.seed, c.name, err)
		return
	}
	c.w.Received(c.name, r.Pos, r.ID)
	if !c.calm.Load() && c.slow.IntN(8) == 0 {
		time.Sleep(time.Duration(c.slow.IntN(60)) * time.Millisecond) // a slow callback, in virtual time
	}
}
