package redisengine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/rueidis"

	"bennu.example/history"
)

const (
	// maxCalls and maxCallBytes limit the requests that are sent to the server at once.
	maxCalls     = 256
	maxCallBytes = 256 << 10
)

var (
	errLogNotRunning = fmt.Errorf("%w: not running", history.ErrUnavailable)
	errNotSent       = fmt.Errorf("%w: not sent in time", history.ErrUnavailable)
	errNotReplicated = fmt.Errorf("%w: too few replicas have it", history.ErrUncertain)
)

// request is a call of a script, or a list of commands. The keys depend on the server, so they are
// determined when the request is sent.
type request struct {
	script   *script
	keys     func() []string
	args     []string
	commands []command
	size     int

	done    chan struct{} // closed when the fields below are set
	answers []rueidis.RedisResult
	err     error // why there are no answers

	// These fields are guarded by the lane.
	sent bool
	gone bool // nobody waits for the answers
}

// command is a command.
type command struct {
	name string
	keys func() []string // nil means none
	args []string        // behind the keys
}

func (c *command) build(b rueidis.Builder) rueidis.Completed {
	words := b.Arbitrary(c.name)
	if c.keys != nil {
		words = words.Args(c.keys()...)
	}
	return words.Args(c.args...).Build()
}

// count returns the number of commands.
func (r *request) count() int { return max(1, len(r.commands)) }

// lane sends requests over one connection at a time, in batches. Requests wait while there is no
// connection.
type lane struct {
	maxCount, maxBytes int
	unknown            error // of a request that may have been executed
	full               error // of a request beyond the bounds
	replicas           int   // that must have what was written. Zero means that WAIT is not sent
	wait               time.Duration

	wake chan struct{} // has room for one signal to the goroutine of serve

	mu    sync.Mutex
	open  bool
	queue []*request // those that were not sent
	calls int        // requests that were not answered
	used  int        // their bytes
}

// newLane returns a lane for requests that write, or for requests that can be repeated.
func newLane(maxCount, maxBytes int, write bool) *lane {
	l := &lane{maxCount: maxCount, maxBytes: maxBytes, wake: make(chan struct{}, 1)}
	l.unknown, l.full = history.ErrUnavailable, history.ErrUnavailable
	if write {
		l.unknown, l.full = history.ErrUncertain, history.ErrFull
	}
	return l
}

// do sends a request and waits for the answers. The error wraps one of package history.
func (l *lane) do(ctx context.Context, r *request) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%w: %w", errNotSent, err)
	}
	if err := l.enqueue(r); err != nil {
		return err
	}
	return l.await(ctx, r)
}

// await waits for the answers to a request that was enqueued.
func (l *lane) await(ctx context.Context, r *request) error {
	select {
	case <-r.done:
		return r.err
	case <-ctx.Done():
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	r.gone = true
	if !r.sent {
		if i := slices.Index(l.queue, r); i >= 0 {
			l.queue = slices.Delete(l.queue, i, i+1)
			l.release(r)
			return fmt.Errorf("%w: %w", errNotSent, ctx.Err())
		}
	}
	select {
	case <-r.done:
		return r.err
	default:
		return fmt.Errorf("%w: sent, and not answered: %w", l.unknown, ctx.Err())
	}
}

func (l *lane) enqueue(r *request) error {
	r.done = make(chan struct{})
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case !l.open:
		return errLogNotRunning
	case l.calls >= l.maxCount, l.calls > 0 && l.used+r.size > l.maxBytes:
		return fmt.Errorf("%w: too many requests wait for Redis", l.full)
	}
	l.calls++
	l.used += r.size
	l.queue = append(l.queue, r)
	select {
	case l.wake <- struct{}{}:
	default:
	}
	return nil
}

// release subtracts a request from what waits. The caller must hold mu.
func (l *lane) release(r *request) {
	l.calls--
	l.used -= r.size
}

// bytes returns the bytes of the requests that were not answered.
func (l *lane) bytes() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.used
}

// setOpen opens the lane, or closes it. Closing fails the requests that were not sent.
func (l *lane) setOpen(open bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open = open
	if open {
		return
	}
	for _, r := range l.queue {
		r.err = errLogNotRunning
		l.release(r)
		close(r.done)
	}
	l.queue = nil
}

// take returns the next requests to send.
func (l *lane) take() (batch []*request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n, calls, size := 0, 0, 0
	for ; n < len(l.queue); n++ {
		r := l.queue[n]
		if n > 0 && (calls+r.count() > maxCalls || size+r.size > maxCallBytes) {
			break
		}
		calls += r.count()
		size += r.size
		r.sent = true
	}
	batch = slices.Clone(l.queue[:n])
	l.queue = slices.Delete(l.queue, 0, n)
	return batch
}

// finish ends a request.
func (l *lane) finish(r *request, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r.err = err
	l.release(r)
	close(r.done)
}

// requeue puts requests that were not executed back to the head of the queue, if somebody waits for
// the answers.
func (l *lane) requeue(requests []*request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var again []*request
	for _, r := range requests {
		if l.open && !r.gone {
			r.sent, r.answers = false, nil
			again = append(again, r)
			continue
		}
		r.err = errLogNotRunning
		l.release(r)
		close(r.done)
	}
	l.queue = slices.Concat(again, l.queue)
}

// link is a connection on which a lane sends.
type link struct {
	builder  func() rueidis.Builder
	pipeline func(ctx context.Context, commands ...rueidis.Completed) []rueidis.RedisResult
	timeout  time.Duration // for the answers to a batch
}

// serve sends requests until ctx ends or the connection fails. It returns when every request that
// was sent is finished. The answers are waited for until sending ends.
func (l *lane) serve(ctx, sending context.Context, to link) error {
	for ctx.Err() == nil {
		batch := l.take()
		if len(batch) == 0 {
			select {
			case <-l.wake:
			case <-ctx.Done():
			}
			continue
		}
		if err := l.send(sending, to, batch); err != nil {
			return err
		}
	}
	return nil
}

// send sends a batch and finishes its requests. The error means that the connection is of no use
// anymore.
func (l *lane) send(ctx context.Context, to link, batch []*request) error {
	ctx, cancel := context.WithTimeout(ctx, to.timeout)
	defer cancel()
	acknowledged := l.exec(ctx, to, batch, false)
	missing := slices.DeleteFunc(slices.Clone(batch), func(r *request) bool {
		return r.script == nil || !hasCode(r.answers[0].Error(), "NOSCRIPT")
	})
	if len(missing) > 0 {
		acknowledged = l.exec(ctx, to, missing, true)
	}
	var ended error
	var again []*request
	for _, r := range batch {
		err := r.failure()
		switch {
		case hasCode(err, "READONLY"):
			ended, again = errReplica, append(again, r)
		case hasCode(err, "MOVED"):
			ended, again = movedTo(err), append(again, r)
		case hasCode(err, "LOADING"), hasCode(err, "MASTERDOWN"):
			ended, again = cmp.Or(ended, err), append(again, r)
		case err == nil && !acknowledged:
			l.finish(r, errNotReplicated)
		case err == nil:
			l.finish(r, nil)
		default:
			if _, answered := rueidis.IsRedisErr(err); !answered {
				ended = cmp.Or(ended, err)
			}
			l.finish(r, l.outcome(err))
		}
	}
	l.requeue(again)
	if ended != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		ended = fmt.Errorf("the server did not answer within %v", to.timeout)
	}
	return ended
}

// exec sends requests and stores the answers. It reports whether enough replicas have everything
// that was written. If whole is true, the server does not know the scripts.
func (l *lane) exec(ctx context.Context, to link, batch []*request, whole bool) (acknowledged bool) {
	var commands []rueidis.Completed
	sent := make(map[*script]bool)
	for _, r := range batch {
		if r.script != nil {
			commands = append(commands, r.script.call(to.builder(), whole && !sent[r.script], r.keys(), r.args))
			sent[r.script] = true
		}
		for i := range r.commands {
			commands = append(commands, r.commands[i].build(to.builder()))
		}
	}
	if l.replicas > 0 {
		wait := strconv.FormatInt(l.wait.Milliseconds(), 10)
		commands = append(commands, to.builder().Arbitrary("WAIT", strconv.Itoa(l.replicas), wait).Build())
	}
	answers := to.pipeline(ctx, commands...)
	for _, r := range batch {
		r.answers, answers = answers[:r.count()], answers[r.count():]
	}
	if l.replicas == 0 {
		return true
	}
	n, err := answers[0].AsInt64()
	return err == nil && n >= int64(l.replicas)
}

// failure returns the first error of the answers.
func (r *request) failure() error {
	for _, a := range r.answers {
		if err := a.Error(); err != nil && !rueidis.IsRedisNil(err) {
			return err
		}
	}
	return nil
}

// hasCode reports whether an error is the server's answer with a code. Before Redis 7 the error of
// a script contains that of its command.
func hasCode(err error, code string) bool {
	answer, ok := rueidis.IsRedisErr(err)
	if !ok {
		return false
	}
	text := answer.Error()
	return strings.HasPrefix(text, code+" ") || strings.Contains(text, ": -"+code+" ")
}

// refusals are the codes of errors of commands that were not executed. In a script, only the first
// command that writes can have one of these errors.
var refusals = []string{
	"NOSCRIPT", "NOPERM", "NOAUTH", "WRONGPASS", "BUSY", "MISCONF", "NOREPLICAS", "READONLY", "LOADING", "MASTERDOWN",
	"CLUSTERDOWN", "ASK", "TRYAGAIN", "CROSSSLOT",
}

// outcome returns the error of a request for its caller.
func (l *lane) outcome(err error) error {
	switch {
	case hasCode(err, "OOM"), hasCode(err, "FULL"):
		return fmt.Errorf("%w: %w", history.ErrFull, err)
	case slices.ContainsFunc(refusals, func(code string) bool { return hasCode(err, code) }):
		return fmt.Errorf("%w: %w", history.ErrUnavailable, err)
	}
	return fmt.Errorf("%w: %w", l.unknown, err)
}
