package doctor

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/coder/websocket"

	"bennu.example/push"
	"bennu.example/serializer"
)

// link is an open connection, whose messages a goroutine reads.
type link struct {
	*websocket.Conn
	messages chan serializer.Message // closed at the end of the connection
	err      error                   // why it has ended, once messages is closed
	refs     int
	ended    chan struct{}
}

// open makes a connection out of an answer. The caller must call end.
func (a *answer) open() *link {
	l := &link{Conn: a.conn, messages: make(chan serializer.Message, 256), ended: make(chan struct{})}
	l.SetReadLimit(1 << 20)
	go l.read()
	return l
}

// read reads messages until the connection ends. More than have room are dropped: none of them is
// awaited.
func (l *link) read() {
	defer close(l.messages)
	for {
		kind, data, err := l.Read(context.Background())
		if err != nil {
			l.err = err
			return
		}
		op := serializer.OpText
		if kind == websocket.MessageBinary {
			op = serializer.OpBinary
		}
		m, err := serializer.V2().ParseClient(op, data)
		if err != nil {
			l.err = err
			return
		}
		select {
		case l.messages <- m:
		default:
		}
	}
}

// end closes the connection and waits for its goroutine.
func (l *link) end() {
	_ = l.CloseNow()
	for range l.messages { // until it is closed
	}
}

// send sends a request without a payload, and returns its ref.
func (l *link) send(ctx context.Context, topic, event string) (serializer.Ref, error) {
	l.refs++
	ref := serializer.StringRef(strings.Repeat("i", l.refs))
	m := serializer.Message{Kind: serializer.KindRequest, Ref: ref, Topic: topic, Event: event}
	if topic != serializer.TopicPhoenix {
		m.JoinRef = "1"
	}
	_, data, err := serializer.V2().Append(nil, &m)
	if err != nil {
		return ref, err
	}
	return ref, l.Write(ctx, websocket.MessageText, data)
}

// errSilent reports that no reply came in time.
var errSilent = errors.New("no reply in time")

// await waits for the reply with a ref.
func (l *link) await(ctx context.Context, ref serializer.Ref, d time.Duration) (serializer.Message, error) {
	late := time.NewTimer(d)
	defer late.Stop()
	for {
		select {
		case m, open := <-l.messages:
			switch {
			case !open:
				return m, l.err
			case m.Kind == serializer.KindReply && m.Ref == ref:
				return m, nil
			}
		case <-late.C:
			return serializer.Message{}, errSilent
		case <-ctx.Done():
			return serializer.Message{}, ctx.Err()
		}
	}
}

// ask sends a request and waits for the reply.
func (l *link) ask(ctx context.Context, d time.Duration, topic, event string) (serializer.Message, error) {
	ref, err := l.send(ctx, topic, event)
	if err != nil {
		return serializer.Message{}, err
	}
	return l.await(ctx, ref, d)
}

func (l *link) heartbeat(ctx context.Context, d time.Duration) error {
	_, err := l.ask(ctx, d, serializer.TopicPhoenix, serializer.EventHeartbeat)
	return err
}

// live examines an open connection: whether messages pass at once, compression, clocks, silence.
func (e *examination) live(ctx context.Context, origin string) {
	a := e.handshake(ctx, attempt{origin: origin})
	if a.conn == nil {
		e.refused(ctx, a)
		return
	}
	l := a.open()
	defer l.end()
	began := time.Now()
	switch err := l.heartbeat(ctx, e.patience()); {
	case err == nil:
		e.ok("messages", "a heartbeat is answered after %s", rounded(time.Since(began)))
	case errors.Is(err, errSilent):
		e.heldBack(ctx, l)
		return
	default:
		e.problem("messages", "See the log of the server and of the proxy.",
			"the connection ends at the first message: %v", err)
		return
	}
	e.compression(ctx, origin)
	e.clock(ctx, l, a)
	e.silence(ctx, l)
}

// patience is how long a reply may take until it counts as held back.
func (e *examination) patience() time.Duration { return min(e.Timeout, 3*time.Second) }

// heldBack finds out why a heartbeat is not answered: it makes the server send more, which fills
// the buffers on the way.
func (e *examination) heldBack(ctx context.Context, l *link) {
	const joins = 64
	topic := "bennu-doctor:" + strings.Repeat("x", 900) // no server has it; the error reply repeats it
	for range joins {
		if _, err := l.send(ctx, topic, serializer.EventJoin); err != nil {
			break // the proxy may have cut the connection; what has arrived counts
		}
	}
	late := time.NewTimer(e.patience())
	defer late.Stop()
	select {
	case _, open := <-l.messages:
		if open {
			e.problem("buffering", e.bufferingFix(),
				"a proxy holds back what the server sends until its buffer is full: a heartbeat was answered only after "+
					"the server had sent more")
			return
		}
	case <-late.C:
	case <-ctx.Done():
		return
	}
	e.problem("buffering", e.bufferingFix(),
		"the connection opens, but no message of the server arrives: a proxy buffers them")
}

// compression checks that compressed messages pass, if the server compresses.
func (e *examination) compression(ctx context.Context, origin string) {
	a := e.handshake(ctx, attempt{origin: origin, compress: true})
	if a.conn == nil {
		e.problem("compression", "Let proxies pass the header Sec-WebSocket-Extensions unchanged, or remove it.",
			"a handshake that offers compression fails: %v", a.err)
		return
	}
	l := a.open()
	defer l.end()
	if !strings.Contains(a.header.Get("Sec-WebSocket-Extensions"), "permessage-deflate") {
		e.ok("compression", "the server does not compress: see socket.Config.WebSocket.Compress")
		return
	}
	topic := "bennu-doctor:" + strings.Repeat("x", 900)
	if _, err := l.ask(ctx, e.patience(), topic, serializer.EventJoin); err != nil {
		e.problem("compression", "Turn off socket.Config.WebSocket.Compress, or the proxy's handling of the frames.",
			"compression is agreed upon, but a compressed message does not pass: %v", err)
		return
	}
	e.ok("compression", "compressed messages pass in both directions")
}

// clock compares the clocks. A Bennu server has its time in the channel $socket; of others, and of
// proxies, there is only the header Date.
func (e *examination) clock(ctx context.Context, l *link, a answer) {
	offset, of := a.date, "that of the answer's header Date"
	if d, ok := e.serverClock(ctx, l); ok {
		offset, of = d, "the server's"
	} else if a.header.Get("Date") == "" {
		return
	}
	switch {
	case offset.Abs() < 5*time.Second:
		e.ok("clock", "this machine's clock and %s agree", of)
	case offset > 0:
		e.problem("clock", "Synchronize both clocks (NTP). Tokens may be refused or expire early.",
			"this machine's clock is %s behind %s", offset.Round(time.Second), of)
	default:
		e.problem("clock", "Synchronize both clocks (NTP). Tokens may be refused or expire early.",
			"this machine's clock is %s ahead of %s", (-offset).Round(time.Second), of)
	}
}

func (e *examination) serverClock(ctx context.Context, l *link) (offset time.Duration, ok bool) {
	const topic = "$socket"
	joined, err := l.ask(ctx, e.patience(), topic, serializer.EventJoin)
	if err != nil || joined.Status != push.StatusOK {
		return 0, false
	}
	sent := time.Now()
	m, err := l.ask(ctx, e.patience(), topic, "time")
	if err != nil || m.Status != push.StatusOK {
		return 0, false
	}
	var reply struct {
		Now float64 `json:"now"`
	}
	if err := m.Payload.Decode(&reply); err != nil || reply.Now == 0 {
		return 0, false
	}
	return time.UnixMilli(int64(reply.Now)).Sub(sent.Add(time.Since(sent) / 2)), true
}

// silence leaves the connection silent, and finds out whether it still works afterwards.
func (e *examination) silence(ctx context.Context, l *link) {
	if e.Idle <= 0 {
		return
	}
	began := time.Now()
	end := time.NewTimer(e.Idle)
	defer end.Stop()
	for waiting := true; waiting; {
		select {
		case _, open := <-l.messages:
			if !open {
				e.cutOff(l.err, time.Since(began))
				return
			}
		case <-end.C:
			waiting = false
		case <-ctx.Done():
			return
		}
	}
	if err := l.heartbeat(ctx, e.patience()); err != nil {
		e.problem("idle", e.idleFix(), "after %s of silence nothing passes any more, although no end was notified: a "+
			"firewall or a proxy has dropped the connection", e.Idle)
		return
	}
	e.ok("idle", "the connection still works after %s of silence", e.Idle)
}

// cutOff explains that the connection has ended while it was silent.
func (e *examination) cutOff(err error, after time.Duration) {
	var closed websocket.CloseError
	if errors.As(err, &closed) {
		e.problem("idle", "Raise the server's idle timeout above the heartbeat interval of its clients, 30 s "+
			"(socket.Config.IdleTimeout; Phoenix: the timeout of the websocket).",
			"the server closes a silent connection after %s, with code %d %s",
			after.Round(100*time.Millisecond), closed.Code, closed.Reason)
		return
	}
	e.problem("idle", e.idleFix(), "a proxy cuts a silent connection after %s", after.Round(100*time.Millisecond))
}
