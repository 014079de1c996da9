package socket

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"bennu.example/serializer"
	"bennu.example/transport"
)

// peer is an in-memory Phoenix server with faults. Its channels handle the same events as those of
// the conformance application on room:*.
type peer struct {
	ser     serializer.Serializer
	extends bool             // its clients join $socket
	clock   func() time.Time // the answer to the event time

	mu      sync.Mutex
	dials   int
	refuse  func(ctx context.Context, by ClientTransport, n int) error // called for dial n, from 1; it may block
	prepare func(k *peerConn)                                          // called for each new connection
	join    func(k *peerConn, m *serializer.Message) (status string, payload any)
	push    func(k *peerConn, m *serializer.Message) (status string, payload any)
	log     *peerLog      // the history of all topics, if there is one
	busy    time.Duration // the time that a channel takes for each message; a join does not wait for it
	ignore  string        // an event that channels ignore
	dialed  []transport.ClientConfig
	at      []time.Time // the times of the dials
	live    []*peerConn
	handled map[string]int // the number of pushes by payload, as JSON
	frames  []string       // the received messages as "join_ref ref topic event payload"
	ends    []transport.CloseError
}

func newPeer() *peer { return &peer{ser: serializer.V2(), handled: make(map[string]int)} }

// client returns a client of the peer, with delays without jitter.
func (p *peer) client(cfg ClientConfig) *Client {
	if cfg.Serializer == nil {
		cfg.Serializer = p.ser
	}
	if cfg.ReconnectDelay == nil {
		delay := clientDelays(clientReconnectTable)
		cfg.ReconnectDelay = func(r Retry) time.Duration { return delay(r.Tries) }
	}
	if cfg.RejoinAfter == nil {
		cfg.RejoinAfter = clientDelays(clientRejoinTable)
	}
	if cfg.DeniedAfter == nil {
		cfg.DeniedAfter = clientDelays(clientDeniedTable)
	}
	cfg.NoSocketChannel = cfg.NoSocketChannel || !p.extends
	c := NewClient("ws://peer.test/socket", &cfg)
	c.dial = p.dial
	return c
}

func (p *peer) dial(ctx context.Context, by ClientTransport, cfg transport.ClientConfig) (transport.ClientConn, error) {
	p.mu.Lock()
	p.dials++
	n, refuse, prepare := p.dials, p.refuse, p.prepare
	p.dialed = append(p.dialed, cfg)
	p.at = append(p.at, time.Now())
	p.mu.Unlock()
	if refuse != nil {
		if err := refuse(ctx, by, n); err != nil {
			return nil, err
		}
	}
	k := &peerConn{p: p, by: by, wake: make(chan struct{}), joined: make(map[string]serializer.Ref)}
	if prepare != nil {
		prepare(k)
	}
	p.mu.Lock()
	p.live = append(p.live, k)
	p.mu.Unlock()
	return k, nil
}

func (p *peer) history() *peerLog {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log
}

func (p *peer) set(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f()
}

// last returns the last connection.
func (p *peer) last() *peerConn {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.live[len(p.live)-1]
}

func (p *peer) dialCount() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.dials
}

// conns returns all connections so far.
func (p *peer) conns() []*peerConn {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]*peerConn(nil), p.live...)
}

// closes returns the codes with which the client closed connections.
func (p *peer) closes() []transport.CloseError {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]transport.CloseError(nil), p.ends...)
}

// dialConfigs returns the configurations of the dials.
func (p *peer) dialConfigs() []transport.ClientConfig {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]transport.ClientConfig(nil), p.dialed...)
}

// times returns how often a push with this payload was handled.
func (p *peer) times(body string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.handled[body]
}

// gaps returns the times between dials.
func (p *peer) gaps() (list []time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := 1; i < len(p.at); i++ {
		list = append(list, p.at[i].Sub(p.at[i-1]))
	}
	return list
}

// got returns the received messages, except those of the given events.
func (p *peer) got(without ...string) (list []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
next:
	for _, f := range p.frames {
		for _, e := range without {
			if strings.Contains(f, " "+e+" ") {
				continue next
			}
		}
		list = append(list, f)
	}
	return list
}

// broadcast sends an event to all connections that joined the topic.
func (p *peer) broadcast(topic, event string, payload any) {
	p.mu.Lock()
	live := append([]*peerConn(nil), p.live...)
	p.mu.Unlock()
	for _, k := range live {
		k.mu.Lock()
		_, ok := k.joined[topic]
		k.mu.Unlock()
		if ok {
			k.send(serializer.Message{Kind: serializer.KindBroadcast, Topic: topic, Event: event,
				Payload: serializer.Value(payload)})
		}
	}
}

// peerConn is both ends of one connection.
type peerConn struct {
	p  *peer
	by ClientTransport

	mu       sync.Mutex
	wake     chan struct{} // closed on any change
	in       []peerFrame   // for the client
	err      error         // what Read returns when in is empty
	closed   bool          // by the client
	stallIn  bool          // the client's reads block
	stallOut bool          // the client's writes block
	swallow  bool          // the client's writes are lost
	limit    int           // the connection is cut by a larger frame of the client; zero means no limit
	linger   time.Duration // the time between the handling of the client's writes and their return
	lose     bool          // frames to the client are lost
	slow     time.Duration // the delay of every frame to the client
	closing  time.Duration // the time that Close takes
	isClosed chan struct{} // created by the first Close
	written  func()        // called for each of the client's writes
	joined   map[string]serializer.Ref
	free     map[string]time.Time // when a channel has handled its messages; see peer.busy
	bytesIn  atomic.Uint64
	bytesOut atomic.Uint64
}

type peerFrame struct {
	op   serializer.Op
	data []byte
	at   time.Time
}

var errReset = errors.New("connection reset by peer")

func (k *peerConn) change(f func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	f()
	close(k.wake)
	k.wake = make(chan struct{})
}

// end ends the connection on the server's side. The client still receives earlier frames.
func (k *peerConn) end(err error) {
	k.change(func() {
		if k.err == nil {
			k.err = err
		}
		clear(k.joined)
	})
}

// cut ends the connection and drops the frames that are under way.
func (k *peerConn) cut(err error) {
	k.change(func() {
		k.in, k.err = nil, err
		clear(k.joined)
	})
}

func (k *peerConn) Read() (serializer.Op, []byte, error) {
	for {
		k.mu.Lock()
		wake := k.wake
		if k.closed {
			k.mu.Unlock()
			return 0, nil, fmt.Errorf("read: %w", transport.ErrClosed)
		}
		var wait <-chan time.Time
		if !k.stallIn {
			if len(k.in) > 0 {
				if d := time.Until(k.in[0].at); d > 0 {
					wait = time.After(d)
				} else {
					f := k.in[0]
					k.in = k.in[1:]
					k.mu.Unlock()
					k.bytesIn.Add(uint64(len(f.data)))
					return f.op, f.data, nil
				}
			} else if err := k.err; err != nil {
				k.mu.Unlock()
				return 0, nil, err
			}
		}
		k.mu.Unlock()
		select {
		case <-wake:
		case <-wait:
		}
	}
}

func (k *peerConn) Write(frames ...*serializer.Frame) error {
	if k.written != nil {
		k.written()
	}
	limit := time.NewTimer(10 * time.Second)
	defer limit.Stop()
	for {
		k.mu.Lock()
		wake, err, stalled, swallow := k.wake, k.err, k.stallOut, k.swallow
		if k.closed {
			err = transport.ErrClosed
		}
		k.mu.Unlock()
		switch {
		case err != nil:
			return fmt.Errorf("write: %w", err)
		case stalled:
			select {
			case <-wake:
				continue
			case <-limit.C:
				k.end(errors.New("write: i/o timeout"))
				continue
			}
		case swallow:
			return nil
		}
		break
	}
	for _, f := range frames {
		k.bytesOut.Add(uint64(len(f.Data)))
		k.mu.Lock()
		limit := k.limit
		k.mu.Unlock()
		if limit > 0 && len(f.Data) > limit {
			k.cut(errReset)
			return nil
		}
		m, err := k.p.ser.Parse(f.Op, f.Data)
		if err != nil {
			k.end(&transport.CloseError{Code: transport.CodeInternal})
			return nil
		}
		k.handle(&m)
	}
	k.mu.Lock()
	linger := k.linger
	k.mu.Unlock()
	time.Sleep(linger) // in the virtual time of the test
	return nil
}

func (k *peerConn) Close(code int, reason string) error {
	k.mu.Lock()
	closing, again := k.closing, k.isClosed
	if again == nil {
		k.isClosed = make(chan struct{})
	}
	k.mu.Unlock()
	if again != nil { // the first call counts
		<-again
		return nil
	}
	defer close(k.isClosed)
	time.Sleep(closing) // in the virtual time of the test
	k.p.set(func() { k.p.ends = append(k.p.ends, transport.CloseError{Code: code, Reason: reason}) })
	k.change(func() {
		k.closed = true
		clear(k.joined)
	})
	return nil
}

func (k *peerConn) Batch(frames []*serializer.Frame) int { return len(frames) }

func (k *peerConn) Bytes() (in, out uint64) { return k.bytesIn.Load(), k.bytesOut.Load() }

// send encodes m. A request looks like a push or broadcast, but may have any payload.
func (k *peerConn) send(m serializer.Message) {
	if m.Kind != serializer.KindReply && !m.Payload.IsBinary() {
		m.Kind = serializer.KindRequest
	}
	op, data, err := k.p.ser.Append(nil, &m)
	if err != nil {
		panic(err)
	}
	k.raw(op, data)
}

func (k *peerConn) raw(op serializer.Op, data []byte) {
	k.change(func() {
		if k.err == nil && !k.closed && !k.lose {
			k.in = append(k.in, peerFrame{op, data, time.Now().Add(k.slow)})
		}
	})
}

func (k *peerConn) reply(m *serializer.Message, joinRef serializer.Ref, status string, payload any) {
	k.send(serializer.Message{
		Kind: serializer.KindReply, JoinRef: joinRef, Ref: m.Ref, Topic: m.Topic, Status: status,
		Payload: serializer.Value(payload),
	})
}

func (k *peerConn) lifecycle(topic, event string, joinRef serializer.Ref, payload any) {
	k.send(serializer.Message{
		Kind: serializer.KindPush, JoinRef: joinRef, Ref: joinRef, Topic: topic, Event: event,
		Payload: serializer.Value(payload),
	})
}

// handle replies like Phoenix.
func (k *peerConn) handle(m *serializer.Message) {
	p := k.p
	body, _ := m.Payload.JSON()
	if m.Payload.IsBinary() {
		body = m.Payload.Bytes()
	}
	p.set(func() {
		p.frames = append(p.frames, fmt.Sprintf("%s %s %s %s %s", m.JoinRef, m.Ref, m.Topic, m.Event, body))
	})
	if m.Topic == serializer.TopicPhoenix && m.Event == serializer.EventHeartbeat {
		k.reply(m, "", "ok", nil)
		return
	}
	k.mu.Lock()
	joinRef, joined := k.joined[m.Topic]
	k.mu.Unlock()
	p.mu.Lock()
	busy, ignored := p.busy, p.ignore == m.Event
	p.mu.Unlock()
	switch {
	case ignored:
	case busy > 0 && joined && m.Event != serializer.EventJoin:
		k.later(busy, *m, joinRef)
	default:
		k.perform(m, joinRef, joined)
	}
}

// later handles m when the channel has handled earlier messages, unless a new join has replaced the
// channel.
func (k *peerConn) later(busy time.Duration, m serializer.Message, joinRef serializer.Ref) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.free == nil {
		k.free = make(map[string]time.Time)
	}
	at := k.free[m.Topic]
	if now := time.Now(); at.Before(now) {
		at = now
	}
	at = at.Add(busy)
	k.free[m.Topic] = at
	time.AfterFunc(time.Until(at), func() {
		k.mu.Lock()
		now, joined := k.joined[m.Topic]
		k.mu.Unlock()
		if joined && now == joinRef {
			k.perform(&m, joinRef, true)
		}
	})
}

func (k *peerConn) perform(m *serializer.Message, joinRef serializer.Ref, joined bool) {
	p := k.p
	body, _ := m.Payload.JSON()
	if m.Payload.IsBinary() {
		body = m.Payload.Bytes()
	}
	switch m.Event {
	case serializer.EventJoin:
		status, payload := "ok", any(nil)
		p.mu.Lock()
		join := p.join
		p.mu.Unlock()
		if join != nil {
			status, payload = join(k, m)
		}
		switch {
		case status == "": // no reply
			return
		case status == "ok":
			k.change(func() { k.joined[m.Topic] = m.JoinRef })
		default:
			k.change(func() { delete(k.joined, m.Topic) })
		}
		k.reply(m, m.JoinRef, status, payload)
		if l := p.history(); l != nil && status == "ok" {
			l.replay(k, m)
		}
		if joined {
			k.lifecycle(m.Topic, serializer.EventClose, joinRef, nil)
		}
		return
	case serializer.EventLeave:
		switch {
		case !joined:
			k.reply(m, m.JoinRef, "ok", nil)
		case m.JoinRef.IsNull() || m.JoinRef == joinRef:
			k.change(func() { delete(k.joined, m.Topic) })
			k.reply(m, joinRef, "ok", nil)
			k.lifecycle(m.Topic, serializer.EventClose, joinRef, nil)
		}
		return
	}
	if !joined {
		k.reply(m, "", "error", map[string]string{"reason": "unmatched topic"})
		return
	}
	if !m.JoinRef.IsNull() && m.JoinRef != joinRef {
		return
	}
	p.set(func() { p.handled[string(body)]++ })
	p.mu.Lock()
	answer := p.push
	p.mu.Unlock()
	if answer != nil && !strings.HasPrefix(m.Topic, "$") {
		if status, payload := answer(k, m); status != "" {
			k.reply(m, joinRef, status, payload)
		}
		return
	}
	switch m.Event {
	case "$history":
		k.reply(m, joinRef, "ok", map[string]string{"pos": p.history().top()})
	case "echo":
		k.reply(m, joinRef, "ok", m.Payload)
	case eventTime:
		k.reply(m, joinRef, "ok", timeReply{p.clock().UnixMilli()})
	case eventToken:
		k.reply(m, joinRef, "ok", map[string]any{"state": stateAuthenticated, "expires_in": 1})
	case "fail":
		k.reply(m, joinRef, "error", m.Payload)
	case "maybe":
		k.reply(m, joinRef, "maybe", m.Payload)
	case "twice":
		k.reply(m, joinRef, "ok", map[string]int{"n": 1})
		k.reply(m, joinRef, "error", map[string]int{"n": 2})
	case "late":
		msg := *m
		time.AfterFunc(15*time.Second, func() { k.reply(&msg, joinRef, "ok", nil) })
	case "later":
		msg := *m
		time.AfterFunc(500*time.Millisecond, func() { k.reply(&msg, joinRef, "ok", nil) })
	case "shout":
		p.broadcast(m.Topic, "shout", m.Payload)
	case "push_me":
		k.send(serializer.Message{Kind: serializer.KindPush, JoinRef: joinRef, Topic: m.Topic, Event: "pushed",
			Payload: m.Payload})
	case "crash":
		k.change(func() { delete(k.joined, m.Topic) })
		k.lifecycle(m.Topic, serializer.EventError, joinRef, map[string]string{"reason": "channel_crash"})
	case "stop":
		k.change(func() { delete(k.joined, m.Topic) })
		k.lifecycle(m.Topic, serializer.EventClose, joinRef, nil)
	}
}

// closeClient closes the client. Pushes have one second to get their replies.
func closeClient(t *testing.T, c *Client) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := c.Close(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("close: %v", err)
	}
	if n, bytes := c.totals.Queued.Load(); n != 0 || bytes != 0 {
		t.Errorf("%d pushes of %d bytes still count as queued", n, bytes)
	}
	if n, bytes := c.totals.Backlog.Load(); n != 0 || bytes != 0 {
		for _, ch := range c.Stats().Channels {
			t.Errorf("backlog of %s: %+v", ch.Topic, ch)
		}
		t.Logf("%d events of %d bytes were not read", n, bytes)
	}
}
