package socket

import (
	"context"
	"slices"
	"strconv"
	"time"

	"github.com/rs/zerolog"

	"bennu.example/internal/clientlink"
	"bennu.example/internal/loop"
	"bennu.example/serializer"
)

// clientSocket is what a client's channels see of it.
type clientSocket struct{ *Client }

var _ clientlink.Socket = clientSocket{}

func (u clientSocket) Post(t loop.Task) bool              { return u.post(t) }
func (u clientSocket) Done() <-chan struct{}              { return u.loop.Done() }
func (u clientSocket) Closing() error                     { return u.Client.closing() }
func (u clientSocket) Log() *zerolog.Logger               { return u.cfg.Logger }
func (u clientSocket) Total() *clientlink.Totals          { return &u.totals }
func (u clientSocket) Arm(t *loop.Timer, d time.Duration) { u.loop.Arm(t, d) }
func (u clientSocket) Disarm(t *loop.Timer)               { u.loop.Disarm(t) }
func (u clientSocket) IsOpen() bool                       { return u.conn != nil }

func (u clientSocket) NextRef() uint64 { return u.nextRef() }

func (u clientSocket) Send(o clientlink.Out) {
	if u.conn == nil { // no channel sends without a connection
		o.Release()
		return
	}
	u.conn.send(o)
}

func (u clientSocket) Withdraw(ref uint64) {
	if u.conn != nil {
		u.conn.withdraw(ref)
	}
}

func (u clientSocket) Attach(topic string, d clientlink.Channel) (busy bool, err error) {
	if u.ended {
		return false, ErrClosed
	}
	for _, other := range u.topics[topic] {
		if !other.IsLeaving() {
			return false, clientlink.ErrTaken
		}
		busy = true
	}
	u.topics[topic] = append(u.topics[topic], d)
	u.mu.Lock()
	defer u.mu.Unlock()
	u.channels = append(u.channels, d)
	return busy, nil
}

func (u clientSocket) Detach(topic string, d clientlink.Channel) {
	is := func(x clientlink.Channel) bool { return x == d }
	if rest := slices.DeleteFunc(slices.Clone(u.topics[topic]), is); len(rest) > 0 {
		u.topics[topic] = rest
		switch {
		case len(rest) > 1:
		case u.conn != nil:
			defer rest[0].Freed() // once u.mu is unlocked
		default: // the end of the connection must reach that channel first
			u.post(clientTask(rest[0].Freed))
		}
	} else {
		delete(u.topics, topic)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.channels = slices.DeleteFunc(slices.Clone(u.channels), is)
}

func (u clientSocket) Go(f func(ctx context.Context), task loop.Task) (cancel func()) {
	ctx, stop := context.WithCancel(u.ctx)
	t := &clientTurn{task: task, until: time.Now().Add(clientTurnWait)}
	u.turns = append(u.turns, t)
	if !u.turn.IsArmed() {
		u.loop.Arm(&u.turn, clientTurnWait)
	}
	u.goUser(func() {
		defer stop()
		defer u.post(clientTask(func() { u.turnReady(t) })) // also if f ends this goroutine
		f(ctx)
	})
	return func() {
		stop()
		if i := slices.Index(u.turns, t); i >= 0 {
			u.turns = slices.Delete(u.turns, i, i+1)
			u.post(clientTask(u.takeTurns)) // later: this one may be called by a task
		}
	}
}

func (u clientSocket) HasTurns() bool { return len(u.turns) > 0 }

// clientTurnWait is how long tasks of clientSocket.Go wait for those before them.
const clientTurnWait = time.Second

// clientTurn is the place of a task of clientSocket.Go.
type clientTurn struct {
	task    loop.Task
	until   time.Time
	isReady bool // its function has ended
}

// turnReady marks a task whose function has ended. If its turn has gone by, it runs at once.
func (c *Client) turnReady(t *clientTurn) {
	t.isReady = true
	if !slices.Contains(c.turns, t) {
		t.task.Run()
		return
	}
	c.takeTurns()
}

// takeTurns runs the tasks whose turn it is.
func (c *Client) takeTurns() {
	for len(c.turns) > 0 && c.turns[0].isReady {
		t := c.turns[0]
		c.turns = slices.Delete(c.turns, 0, 1)
		t.task.Run()
	}
	if len(c.turns) == 0 {
		c.turns = nil
		c.loop.Disarm(&c.turn)
	}
}

// turnDue passes over those that were waited for long enough.
func (c *Client) turnDue() {
	for len(c.turns) > 0 && !c.turns[0].until.After(time.Now()) {
		c.turns = slices.Delete(c.turns, 0, 1)
		c.takeTurns()
	}
	if len(c.turns) > 0 {
		c.loop.Arm(&c.turn, time.Until(c.turns[0].until))
	}
}

func (u clientSocket) BeginPush() uint64 {
	u.entered++
	u.unanswered++
	return u.entered
}

func (u clientSocket) EndPush(n uint64) {
	u.unanswered--
	for _, f := range u.flushes {
		if n <= f.until {
			f.left--
		}
	}
	u.flushed(false)
}

// clientFlush waits for the answers of what was pushed before it.
type clientFlush struct {
	until      uint64
	left       int
	unanswered int // of left, if it was let go of early; to be read after done
	done       chan struct{}
}

// flush starts waiting.
func (c *Client) flush(f *clientFlush) {
	f.until, f.left = c.entered, c.unanswered
	c.flushes = append(c.flushes, f)
	c.flushed(c.ended)
}

// flushed lets go of those who have waited long enough.
func (c *Client) flushed(all bool) {
	c.flushes = slices.DeleteFunc(c.flushes, func(f *clientFlush) bool {
		if f.left > 0 && !all {
			return false
		}
		f.unanswered = f.left
		close(f.done)
		return true
	})
}

// settle asks for a sign that the server has got everything, once that is all that Close waits for: a heartbeat's answer, which comes after
// what was sent before it was received.
func (c *Client) settle() {
	if c.draining != nil && c.draining.left > 0 && c.conn != nil && c.barrier.IsNull() && !c.settling.IsArmed() && c.isSettled() {
		ref := c.nextRef()
		c.barrier, c.barrierAt = clientRefText(ref), c.entered
		c.conn.send(heartbeatOut(ref))
	}
}

// settleSoon takes that sign. Answers that come soon are still taken.
func (c *Client) settleSoon() {
	c.barrier = ""
	c.loop.Arm(&c.settling, clientSettle)
}

// settled comes a little later. If something was sent after the sign was asked for, or somebody began to wait, then settle asks again.
func (c *Client) settled() {
	if c.draining != nil && c.barrierAt == c.entered && c.isSettled() {
		c.draining.left = 0
		c.flushed(false)
	}
}

func (c *Client) isSettled() bool {
	for _, d := range c.downs() {
		if !d.IsSettled() {
			return false
		}
	}
	return true
}

// nextRef is the socket's next ref. Like all of the loop's, it is called from there only.
func (c *Client) nextRef() uint64 {
	c.refs++
	return c.refs
}

func clientRefText(n uint64) serializer.Ref {
	return serializer.Ref(strconv.Quote(strconv.FormatUint(n, 10)))
}

// clientRefNumber reads a ref that clientRefText made.
func clientRefNumber(ref serializer.Ref) (n uint64, ok bool) {
	if len(ref) < 3 {
		return 0, false
	}
	n, err := strconv.ParseUint(string(ref[1:len(ref)-1]), 10, 64)
	return n, err == nil
}
