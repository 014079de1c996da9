package call

import (
	"context"
	"errors"
	"sync"

	"bennu.example/channel"
)

// defaultWindow is the window of a Writer.
const defaultWindow = 16

// errWriterClosed is the error of a Write after Close.
var errWriterClosed = errors.New("call: writer is closed")

// Writer pushes a stream of events to the server, and not faster than the server answers them: the
// reply to a push is the credit for another one. NewWriter makes it. Its methods may be called from
// any goroutine.
type Writer struct {
	ctx    context.Context
	room   *channel.Client
	event  string
	window chan struct{} // one for each unanswered push
	failed chan struct{} // closed with the first error

	mu         sync.Mutex
	err        error
	isClosed   bool
	unanswered sync.WaitGroup // the pushes
}

// NewWriter returns a Writer of an event on a channel. Window is the number of pushes that may be
// unanswered. Zero means 16. The end of ctx cancels the pushes and ends the writer.
func NewWriter(ctx context.Context, room *channel.Client, event string, window int) *Writer {
	if window <= 0 {
		window = defaultWindow
	}
	return &Writer{
		ctx: ctx, room: room, event: event, window: make(chan struct{}, window), failed: make(chan struct{}),
	}
}

// Write pushes v, a Go value or a serializer.Payload. It waits while as many pushes as the window
// has are unanswered. Its error is the first one of any push so far, such as an error reply,
// push.ErrLost or push.ErrTimeout; nothing is pushed after that. A nil error does not mean that the
// server has accepted v: Close tells.
func (w *Writer) Write(v any) error {
	select {
	case <-w.failed: // even if there is room
		return w.cause()
	default:
	}
	select {
	case w.window <- struct{}{}:
	case <-w.failed:
		return w.cause()
	case <-w.ctx.Done():
		return w.fail(w.ctx.Err())
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	err := w.err
	if err == nil && w.isClosed {
		err = errWriterClosed
	}
	if err != nil {
		<-w.window
		return err
	}
	p := w.room.Push(w.event, v)
	w.unanswered.Go(func() {
		if _, err := p.Wait(w.ctx); err != nil {
			p.Cancel()
			_ = w.fail(err)
		}
		<-w.window
	})
	return nil
}

// Close waits until all pushes are answered, and returns the first error. Later Writes fail.
func (w *Writer) Close() error {
	w.mu.Lock()
	w.isClosed = true
	w.mu.Unlock()
	w.unanswered.Wait()
	return w.cause()
}

// fail ends the writer and returns its first error.
func (w *Writer) fail(err error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.err = err
		close(w.failed)
	}
	return w.err
}

func (w *Writer) cause() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}
