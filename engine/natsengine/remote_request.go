package natsengine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"

	"bennu.example/history"
)

const (
	// maxAppends and maxAppendBytes bound the appends that wait to be sent or answered.
	maxAppends     = 4096
	maxAppendBytes = 16 << 20

	// maxReads bounds the requests for records that run at a time, and maxPart the bytes of one
	// answer. Together they stay below the bytes that a server holds back for a client.
	maxReads = 32
	maxPart  = 1 << 20

	// maxBatch bounds the requests that are handed to the client in one step.
	maxBatch = 256

	statusHeader      = "Status"
	descriptionHeader = "Description"
	noResponders      = "503"
)

var (
	errNotRunning = errors.New("not running")
	errEnded      = errors.New("the connection has ended")
	errNoAnswer   = errors.New("the server did not answer in time")
)

// requestState is what became of a request.
type requestState byte

const (
	requestWaits    requestState = iota // in the queue
	requestSent                         // handed to the client; the answer is awaited
	requestFinished                     // answered, failed or given up
)

// request is a message that is answered. Its fields below the line are guarded by remote.mu.
type request struct {
	subject string
	header  nats.Header
	data    []byte
	stores  bool // it stores something: it counts against the bounds, and its outcome may be uncertain
	again   bool // it may be sent again if the connection was lost before the answer
	many    bool // the answer has several messages and ends with one that has a status
	control bool // it is sent even if the stream is not known to be ready

	state   requestState
	maybe   bool   // an earlier connection was lost before the answer: the server may have received it
	token   string // the last token of the subject for the answer
	answers []*nats.Msg
	err     error
	done    chan struct{} // closed when it is finished
}

func (r *request) size() int { return len(r.subject) + len(r.data) }

// do sends a request and returns its answers. The error wraps history.ErrUnavailable,
// ErrUncertain, ErrFull or ErrTooLarge.
func (l *remote) do(ctx context.Context, r *request) ([]*nats.Msg, error) {
	if err := l.start(r); err != nil {
		return nil, err
	}
	return l.wait(ctx, r)
}

// start enqueues a request. The caller must call wait if it returns nil.
func (l *remote) start(r *request) error {
	r.done = make(chan struct{})
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case !l.open:
		return unavailable(errNotRunning)
	case r.stores && (l.appends >= maxAppends || l.appending+r.size() > maxAppendBytes):
		return history.ErrFull
	}
	if r.stores {
		l.appends++
		l.appending += r.size()
	}
	if r.control {
		l.control = append(l.control, r)
	} else {
		l.queue = append(l.queue, r)
	}
	signal(l.wake)
	return nil
}

// wait waits for the answers to a request, or until ctx ends.
func (l *remote) wait(ctx context.Context, r *request) ([]*nats.Msg, error) {
	select {
	case <-r.done:
	case <-ctx.Done():
		l.mu.Lock()
		defer l.mu.Unlock()
		switch {
		case r.state == requestFinished: // in the same moment
		default:
			l.giveUp(r, l.reason(ctx))
		}
	}
	return r.answers, r.err
}

// giveUp ends a request that was not answered. The caller must hold mu.
func (l *remote) giveUp(r *request, reason error) {
	err := history.ErrUnavailable
	if r.stores && (r.state == requestSent || r.maybe) {
		err = history.ErrUncertain
	}
	switch r.state {
	case requestSent:
		delete(l.calls, r.token)
	default:
		l.queue = without(l.queue, r)
		l.control = without(l.control, r)
	}
	l.finish(r, fmt.Errorf("%w: %w", err, reason))
}

// reason returns why there is no answer. The caller must hold mu.
func (l *remote) reason(ctx context.Context) error {
	switch {
	case l.health.Err != nil:
		return l.health.Err
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return errNoAnswer
	}
	return ctx.Err()
}

func without(queue []*request, r *request) []*request {
	if i := slices.Index(queue, r); i >= 0 {
		return slices.Delete(queue, i, i+1)
	}
	return queue
}

func unavailable(reason error) error {
	return fmt.Errorf("%w: %w", history.ErrUnavailable, reason)
}

// finish ends a request. The caller must hold mu, and must have removed it from the queues.
func (l *remote) finish(r *request, err error) {
	r.state, r.err = requestFinished, err
	if r.stores {
		l.appends--
		l.appending -= r.size()
	}
	close(r.done)
}

// write hands the requests that may be sent to the client. An error ends the connection.
func (l *remote) write(c *conn) error {
	for {
		batch := l.take()
		if len(batch) == 0 {
			return nil
		}
		for _, r := range batch {
			err := c.nc.PublishMsg(&nats.Msg{
				Subject: r.subject, Reply: l.replies + "." + r.token, Header: r.header, Data: r.data,
			})
			if errors.Is(err, nats.ErrMaxPayload) { // nothing was sent
				l.mu.Lock()
				if r.state == requestSent {
					delete(l.calls, r.token)
					l.finish(r, history.ErrTooLarge)
				}
				l.mu.Unlock()
			} else if err != nil {
				return err
			}
		}
	}
}

// take takes requests from the queue. From now on the server may receive them.
func (l *remote) take() (batch []*request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	batch, l.control = l.control, nil
	if l.ready {
		n := min(len(l.queue), maxBatch)
		batch = append(batch, l.queue[:n]...)
		l.queue = slices.Delete(l.queue, 0, n)
	}
	for _, r := range batch {
		l.last++
		r.token = strconv.FormatUint(l.last, 36)
		r.state = requestSent
		r.answers = nil
		l.calls[r.token] = r
	}
	return batch
}

// answer handles a message to a subject for answers.
func (l *remote) answer(token string, m *nats.Msg) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.calls[token]
	if r == nil {
		return // given up
	}
	status := m.Header.Get(statusHeader)
	if status == noResponders && len(r.answers) == 0 && !r.control {
		// Nobody received it: the stream has no leader, or does not exist anymore.
		delete(l.calls, token)
		r.state = requestWaits
		l.queue = append(l.queue, r)
		l.ready = false
		signal(l.stir)
		return
	}
	r.answers = append(r.answers, m)
	if r.many && status == "" {
		return
	}
	delete(l.calls, token)
	l.finish(r, nil)
}

// stopSending ends what a connection has begun. Requests that may be sent again wait for the next
// one.
func (l *remote) stopSending(reason error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ready = false
	for len(l.control) > 0 {
		l.giveUp(l.control[0], reason)
	}
	var again []*request
	for token, r := range l.calls {
		if r.again {
			delete(l.calls, token)
			r.state, r.maybe = requestWaits, true
			again = append(again, r)
		} else {
			l.giveUp(r, reason)
		}
	}
	l.queue = append(again, l.queue...)
}

// close refuses all requests.
func (l *remote) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open = false
	for len(l.queue) > 0 {
		l.giveUp(l.queue[len(l.queue)-1], errNotRunning)
	}
}

// signal wakes a goroutine that waits for a channel with room for one signal.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// message handles what the connection receives. It is called by one goroutine.
func (l *remote) message(m *nats.Msg) {
	if token, ok := strings.CutPrefix(m.Subject, l.replies+"."); ok {
		l.answer(token, m)
	} else if token, ok := strings.CutPrefix(m.Subject, l.feeds); ok {
		l.fed(token, m)
	}
}
