package brokertest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"bennu.example/channel"
	"bennu.example/internal/willcheck"
	"bennu.example/serializer"
	"bennu.example/socket"
)

// pause waits for a random time, during which the client does nothing. It reports whether the
// client goes on.
func (r *willRun) pause(rnd *rand.Rand, most time.Duration) bool {
	select {
	case <-time.After(time.Duration(rnd.Int64N(int64(most)))):
		return true
	case <-r.ctx.Done():
		return false
	}
}

func randomAfter(rnd *rand.Rand) time.Duration {
	return time.Duration(rnd.IntN(4)) * willMaxAfter / 3
}

// lasting is clients one after the other that keep their wills over many connections, by the
// methods of channel.Client.
func (r *willRun) lasting(rnd *rand.Rand) {
	for r.ctx.Err() == nil {
		l := &lastingClient{r: r, rnd: rnd, id: r.newClientID("lasting"), subject: "user"}
		l.live()
	}
}

// lastingClient is a client that comes back by itself.
type lastingClient struct {
	r   *willRun
	rnd *rand.Rand
	id  string
	c   *socket.Client

	mu      sync.Mutex
	subject string
	unsure  bool // the subject changes, so that nobody knows as whom the client joins
}

func (l *lastingClient) event(kind willcheck.Kind) willcheck.Event {
	return willcheck.Event{Kind: kind, Client: l.id}
}

func (l *lastingClient) live() {
	r, rnd := l.r, l.rnd
	cfg := r.config(l.id, l.subject)
	cfg.ReconnectDelay = func(retry socket.Retry) time.Duration {
		if retry.Tries == 1 && rand.IntN(2) == 0 {
			return -1 // it gives up
		}
		return 20 * time.Millisecond
	}
	l.c = socket.NewClient("ws://node", cfg)
	l.c.Connect()
	cancels := make([]func(), len(willTopics))
	channels := make([]*channel.Client, len(willTopics))
	set := func(i int) { cancels[i] = channels[i].Will(willEvent, nil, randomAfter(rnd), false) }
	for i, topic := range willTopics {
		ch := l.c.Channel(topic, nil)
		channels[i] = ch
		ch.OnJoin(func(reply serializer.Payload) { l.joined(topic, reply) })
		set(i)
		ch.Join()
	}
	for r.pause(rnd, time.Second) && rnd.IntN(8) > 0 && l.c.State().Status != socket.StatusFailed {
		switch rnd.IntN(4) {
		case 0, 1:
			r.rec.Add(l.event(willcheck.Ending))
			l.c.Pause()
			if rnd.IntN(2) == 0 {
				r.pause(rnd, 1500*time.Millisecond)
			}
			l.c.Connect()
		case 2:
			i := rnd.IntN(len(willTopics))
			dropping := l.event(willcheck.Dropping)
			dropping.Topic = willTopics[i]
			r.rec.Add(dropping)
			cancels[i]()
			set(i)
		case 3:
			l.changeSubject()
		}
	}
	r.rec.Add(l.event(willcheck.Ending))
	_ = l.c.Close(context.Background())
	r.rec.Add(l.event(willcheck.Gone))
}

func (l *lastingClient) joined(topic string, reply serializer.Payload) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var in willReply
	if err := reply.Decode(&in); err != nil {
		l.r.t.Errorf("%s: %v", l.id, err)
	}
	if l.unsure || in.Subject != l.subject {
		return
	}
	e := l.event(willcheck.Joined)
	e.Connection, e.Subject, e.Topic = in.Connection, in.Subject, topic
	l.r.rec.Add(e)
}

// changeSubject logs the client out, or in again. The server deletes its wills.
func (l *lastingClient) changeSubject() {
	l.mu.Lock()
	next := ""
	if l.subject == "" {
		next = "user"
	}
	l.unsure = true
	l.mu.Unlock()
	l.r.rec.Add(l.event(willcheck.Dropping))
	ctx, cancel := context.WithTimeout(l.r.ctx, 5*time.Second)
	defer cancel()
	var err error
	if next == "" {
		err = l.c.Deauthenticate(ctx)
	} else {
		err = l.c.Authenticate(ctx, next)
	}
	if err != nil {
		return // it remains unsure
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.subject, l.unsure = next, false
}

// pages is pages one after the other, each with connections one after the other, or two at a time.
func (r *willRun) pages(rnd *rand.Rand) {
	for r.ctx.Err() == nil {
		p := &willPage{r: r, rnd: rnd, id: r.newClientID("page"), ordered: rnd.IntN(3) > 0, subject: "user"}
		if rnd.IntN(3) == 0 {
			p.subject = ""
		}
		p.live()
	}
}

// willPage is a client that does what a page does: it joins $socket and sets its wills itself.
type willPage struct {
	r       *willRun
	rnd     *rand.Rand
	id      string
	subject string
	ordered bool // it sends $order
}

func (p *willPage) live() {
	var before *pageConnection
	for p.r.ctx.Err() == nil {
		k := p.connect()
		if before != nil {
			before.end()
		}
		if before = k; k == nil {
			if !p.r.pause(p.rnd, 100*time.Millisecond) { // until there is a node
				break
			}
			continue
		}
		lives := true
		for i := 1 + p.rnd.IntN(5); i > 0 && lives && p.r.pause(p.rnd, 300*time.Millisecond); i-- {
			lives = k.act()
		}
		if !lives && p.rnd.IntN(2) == 0 {
			break // it does not come back after its node was killed
		}
		if !p.ordered || p.rnd.IntN(2) == 0 { // otherwise the next connection begins before this one ends
			k.end()
			before = nil
		}
		if p.rnd.IntN(4) == 0 {
			break
		}
		p.r.pause(p.rnd, 1500*time.Millisecond)
	}
	if before != nil {
		before.end()
	}
	p.r.rec.Add(willcheck.Event{Kind: willcheck.Gone, Client: p.id})
}

// pageConnection is a connection of a page.
type pageConnection struct {
	p     *willPage
	id    string
	c     *socket.Client
	me    *channel.Client
	rooms []*channel.Client // joined
	wills []string
	who   string // the subject

	mu   sync.Mutex
	conn net.Conn
}

// connect returns nil if the connection failed.
func (p *willPage) connect() *pageConnection {
	k := &pageConnection{p: p, who: p.subject}
	cfg := p.r.config(p.id, p.subject)
	cfg.NoSocketChannel = true
	cfg.ReconnectDelay = func(socket.Retry) time.Duration { return -1 }
	cfg.RejoinAfter = func(int) time.Duration { return -1 }
	if p.ordered {
		cfg.Params = map[string]any{"$order": fmt.Sprint(p.r.order.Add(1))}
	}
	dial := p.r.dial
	cfg.HTTPClient = p.r.httpClient(func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		k.mu.Lock()
		defer k.mu.Unlock()
		k.conn = conn
		return conn, err
	})
	k.c = socket.NewClient("ws://node", cfg)
	k.c.Connect()
	k.me = k.c.Channel("$socket", nil)
	ok := k.join(k.me)
	for _, topic := range willTopics {
		if ch := k.c.Channel(topic, nil); ok && k.join(ch) {
			k.rooms = append(k.rooms, ch)
		} else {
			ok = false
		}
	}
	if !ok {
		k.end()
		return nil
	}
	return k
}

func (k *pageConnection) event(kind willcheck.Kind, topic string) willcheck.Event {
	return willcheck.Event{Kind: kind, Connection: k.id, Subject: k.who, Client: k.p.id, Topic: topic}
}

// wait bounds the wait for a reply.
func (k *pageConnection) wait() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), 8*time.Second)
}

func (k *pageConnection) join(ch *channel.Client) bool {
	ctx, cancel := k.wait()
	defer cancel()
	reply, err := ch.Join().Wait(ctx)
	if err != nil {
		return false
	}
	if ch == k.me {
		return true
	}
	var in willReply
	if err := reply.Decode(&in); err != nil || in.Subject != k.who {
		k.p.r.t.Errorf("%s: joined as %q, want %q: %v", k.p.id, in.Subject, k.who, err)
		return false
	}
	k.id = in.Connection
	k.p.r.rec.Add(k.event(willcheck.Joined, ch.Topic()))
	return true
}

// push sends a push on $socket, and returns the reply, or false.
func (k *pageConnection) push(event string, payload, into any) bool {
	ctx, cancel := k.wait()
	defer cancel()
	reply, err := k.me.Push(event, payload).Wait(ctx)
	return err == nil && (into == nil || reply.Decode(into) == nil)
}

// act does something. It reports false if the connection has ended.
func (k *pageConnection) act() bool {
	rec, rnd := k.p.r.rec, k.p.rnd
	switch action := rnd.IntN(10); {
	case action < 5 && len(k.rooms) > 0:
		room := k.rooms[rnd.IntN(len(k.rooms))]
		var in struct{ Will string }
		after := randomAfter(rnd).Milliseconds()
		if k.push("will", map[string]any{"topic": room.Topic(), "event": willEvent, "after_ms": after}, &in) {
			rec.Add(willcheck.Event{Kind: willcheck.Acked, Will: in.Will})
			k.wills = append(k.wills, in.Will)
		}
	case action < 7 && len(k.wills) > 0:
		one := willcheck.Event{Kind: willcheck.Dropping, Will: k.wills[len(k.wills)-1]}
		k.wills = k.wills[:len(k.wills)-1]
		rec.Add(one)
		if k.push("unwill", map[string]string{"will": one.Will}, nil) {
			one.Kind = willcheck.Dropped
			rec.Add(one)
		}
	case action < 8 && len(k.rooms) > 0:
		k.leave()
	default:
		k.changeSubject()
	}
	return k.c.State().Status == socket.StatusConnected
}

// leave leaves a topic for good.
func (k *pageConnection) leave() {
	room := k.rooms[0]
	k.rooms = k.rooms[1:]
	left := willcheck.Event{Kind: willcheck.Dropping, Connection: k.id, Topic: room.Topic()}
	k.p.r.rec.Add(left)
	ctx, cancel := k.wait()
	defer cancel()
	if _, err := room.Leave().Wait(ctx); err == nil && k.c.State().Status == socket.StatusConnected {
		left.Kind = willcheck.Dropped
		k.p.r.rec.Add(left)
	}
}

// changeSubject logs in or out. The client then is another one on its topics.
func (k *pageConnection) changeSubject() {
	var token any
	next := ""
	if k.who == "" {
		token, next = "user", "user"
	}
	dropped := willcheck.Event{Kind: willcheck.Dropping, Connection: k.id}
	k.p.r.rec.Add(dropped)
	if !k.push("token", map[string]any{"token": token}, nil) {
		return
	}
	k.who = next
	k.wills = nil
	dropped.Kind = willcheck.Dropped
	k.p.r.rec.Add(dropped)
	for _, room := range k.rooms {
		k.p.r.rec.Add(k.event(willcheck.Joined, room.Topic()))
	}
}

// end ends the connection, by a close or by a cut.
func (k *pageConnection) end() {
	rec := k.p.r.rec
	if k.id != "" {
		rec.Add(k.event(willcheck.Ending, ""))
	}
	if k.p.rnd.IntN(2) == 0 {
		k.mu.Lock()
		if tcp, ok := k.conn.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
			_ = tcp.Close()
		}
		k.mu.Unlock()
	}
	_ = k.c.Close(context.Background())
	if k.id != "" {
		rec.Add(k.event(willcheck.Ended, ""))
	}
}
