// Package load puts load on a socket: it opens many connections, each of which joins a topic,
// pushes events at a fixed rate, and measures how long replies and broadcasts take.
//
// The rate does not depend on the answers. A push is measured from the time at which it was due, so
// a server that stalls cannot look fast by slowing the pushes down.
package load

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"bennu.example/channel"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/socket"
)

// Config is the load.
type Config struct {
	URL    string
	Client socket.ClientConfig // of every connection

	Connections int
	ConnectRate int // connections per second
	// Topic and Params belong to a connection, by its number from 0.
	Topic  func(n int) string
	Params func(n int) any

	// Event is pushed. Empty means that the connections are only held.
	Event string
	// Payload makes the payload of a push by the nth connection. An id that comes back in an event
	// makes its delivery measured.
	Payload  func(n int, id string) serializer.Payload
	Rate     float64 // pushes per second, of all connections together
	Duration time.Duration
}

// Progress is the state of a run.
type Progress struct {
	Connected, Lost    int
	Pushes, Deliveries uint64
	Errors             uint64
}

// run is one run.
type run struct {
	Config
	start  time.Time
	marker []byte // what ids begin with

	connect, join, replies, deliveries Histogram

	connected, lost atomic.Int64
	pushes, failed  atomic.Uint64

	mu     sync.Mutex
	errors map[string]uint64
}

// maxErrors bounds the texts of errors that are counted one by one.
const maxErrors = 32

// fail counts an error.
func (r *run) fail(text string) {
	r.failed.Add(1)
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, known := r.errors[text]; !known && len(r.errors) >= maxErrors {
		text = "other errors"
	}
	r.errors[text]++
}

// member is one connection and its channel.
type member struct {
	n      int
	client *socket.Client
	room   *channel.Client
}

// Run puts load on a socket until the duration is over or ctx ends. It calls progress every second,
// if it is not nil.
func Run(ctx context.Context, cfg Config, progress func(Progress)) *Report {
	r := &run{Config: cfg, start: time.Now(), errors: map[string]uint64{}}
	r.marker = []byte("bennu" + strconv.FormatInt(r.start.UnixNano()%1e9, 36) + "-")
	stop := r.report(progress)
	defer stop()
	members := r.open(ctx)
	defer r.close(members)
	began := time.Now()
	if len(members) > 0 {
		r.load(ctx, members)
	}
	seconds := time.Since(began).Seconds()
	if ctx.Err() == nil {
		r.drain(ctx, members)
	}
	return r.result(seconds)
}

// report calls progress every second until stop is called.
func (r *run) report(progress func(Progress)) (stop func()) {
	if progress == nil {
		return func() {}
	}
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				progress(Progress{
					Connected: int(r.connected.Load()), Lost: int(r.lost.Load()), Pushes: r.pushes.Load(),
					Deliveries: r.deliveries.total.Load(), Errors: r.failed.Load(),
				})
			case <-end:
				return
			}
		}
	}()
	return func() {
		close(end)
		<-ended
	}
}

// open opens the connections, at most ConnectRate in a second, and returns those that have joined.
func (r *run) open(ctx context.Context) []*member {
	var opened sync.WaitGroup
	all := make([]*member, r.Connections)
	for n := range all {
		if !wait(ctx, r.start.Add(time.Duration(n)*time.Second/time.Duration(r.ConnectRate))) {
			break
		}
		opened.Go(func() { all[n] = r.enter(ctx, n) })
	}
	opened.Wait()
	members := all[:0]
	for _, m := range all {
		if m != nil {
			members = append(members, m)
		}
	}
	return members
}

// enter opens the nth connection and joins its topic. It returns nil if that fails.
func (r *run) enter(ctx context.Context, n int) *member {
	began := time.Now()
	cfg := r.Client
	c, err := socket.Dial(ctx, r.URL, &cfg)
	if err != nil {
		r.fail("connect: " + err.Error())
		return nil
	}
	r.connect.Add(time.Since(began))
	m := &member{n: n, client: c, room: c.Channel(r.Topic(n), r.Params(n))}
	joining := time.Now()
	m.room.OnMessage(r.received)
	if _, err := m.room.Join().Wait(ctx); err != nil {
		r.fail("join: " + reason(err))
		r.close([]*member{m})
		return nil
	}
	r.join.Add(time.Since(joining))
	r.connected.Add(1)
	connected := true // the callbacks come in order, one at a time
	c.OnState(func(s socket.State) {
		if connected && s.Status != socket.StatusConnected && s.Wanted == socket.WantConnected {
			r.lost.Add(1)
		}
		connected = s.Status == socket.StatusConnected
	})
	return m
}

// wait waits until t. It reports false if ctx ends first.
func wait(ctx context.Context, t time.Time) bool {
	d := time.Until(t)
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// load pushes events in turn from all members, at the rate, or only waits.
func (r *run) load(ctx context.Context, members []*member) {
	began := time.Now()
	if r.Event == "" || r.Rate <= 0 {
		wait(ctx, began.Add(r.Duration))
		return
	}
	for i := 0; ; i++ {
		due := began.Add(time.Duration(float64(i) / r.Rate * float64(time.Second)))
		if due.Sub(began) >= r.Duration || !wait(ctx, due) {
			return
		}
		r.push(members[i%len(members)], due)
	}
}

// push pushes an event that is due now. The id contains the time.
func (r *run) push(m *member, due time.Time) {
	id := string(r.marker) + strconv.FormatInt(int64(due.Sub(r.start)), 36) + "-"
	r.pushes.Add(1)
	m.room.Push(r.Event, r.Payload(m.n, id)).
		Receive(push.StatusOK, func(serializer.Payload) { r.replies.Add(time.Since(due)) }).
		Receive(push.StatusError, func(p serializer.Payload) {
			r.fail("reply: " + reason(&push.Error{Status: push.StatusError, Payload: p}))
		}).
		Receive(push.StatusTimeout, func(serializer.Payload) { r.fail("no reply in time") }).
		Receive(push.StatusFailed, func(p serializer.Payload) {
			r.fail("push: " + reason(&push.Error{Status: push.StatusFailed, Payload: p}))
		})
}

// received measures an event that contains an id.
func (r *run) received(m serializer.Message) {
	data := m.Payload.Bytes()
	i := bytes.Index(data, r.marker)
	if i < 0 {
		return
	}
	rest := data[i+len(r.marker):]
	end := bytes.IndexByte(rest, '-')
	if end < 0 {
		return
	}
	if at, err := strconv.ParseInt(string(rest[:end]), 36, 64); err == nil {
		r.deliveries.Add(time.Since(r.start.Add(time.Duration(at))))
	}
}

// drain waits for the replies, and for what the server had sent to each connection by then. It
// closes the connections, because their callbacks may still run when an answer has come.
func (r *run) drain(ctx context.Context, members []*member) {
	each(members, func(m *member) { _ = m.client.Flush(ctx) }) // the failures were counted
	each(members, func(m *member) { _, _ = m.client.Ping(ctx) })
	r.close(members)
}

// closeTimeout bounds the end of each connection.
const closeTimeout = 2 * time.Second

// close closes the connections, unless they are closed. It waits for callbacks, not for replies.
func (r *run) close(members []*member) {
	each(members, func(m *member) {
		m.client.Pause()
		ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
		defer cancel()
		_ = m.client.Close(ctx)
	})
}

// each calls f for all members, for some of them at a time.
func each(members []*member, f func(*member)) {
	const atATime = 64
	var done sync.WaitGroup
	slots := make(chan struct{}, atATime)
	for _, m := range members {
		slots <- struct{}{}
		done.Go(func() {
			defer func() { <-slots }()
			f(m)
		})
	}
	done.Wait()
}

func (r *run) result(seconds float64) *Report {
	rep := &Report{
		Connections: r.Connections, Connected: int(r.connected.Load()), Lost: int(r.lost.Load()),
		Connect: r.connect.Latency(), Join: r.join.Latency(),
		Pushes: r.pushes.Load(), Replies: r.replies.Latency(), Deliveries: r.deliveries.Latency(),
		Seconds: seconds, Errors: map[string]uint64{},
	}
	if seconds > 0 {
		rep.PushRate = float64(rep.Pushes) / seconds
		rep.Rate = float64(rep.Deliveries.Count) / seconds
	}
	if rep.Pushes > 0 {
		rep.FanOut = float64(rep.Deliveries.Count) / float64(rep.Pushes)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for text, n := range r.errors {
		rep.Errors[text] = n
	}
	return rep
}

// reason returns the reason of an error reply, or the text of another error.
func reason(err error) string {
	var reply *push.Error
	if errors.As(err, &reply) {
		if s := reply.Reason(); s != "" {
			return s
		}
		return fmt.Sprintf("status %q", reply.Status)
	}
	return err.Error()
}
