package mirror

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	mrand "math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"bennu.example/channel"
	"bennu.example/history"
	"bennu.example/push"
	"bennu.example/serializer"
)

// Stream is a subscription to a stream: its messages in order, and a snapshot of what those before
// have made. It continues after a lost connection. It has no copy, and holds few messages: those
// that wait for Events are at the server. Its methods may be called from any goroutine.
type Stream[T any] struct {
	topic   string
	channel *channel.Client
	most    int    // bytes of a value; zero means that there is no limit
	idText  string // of push ids, before their number
	ids     atomic.Uint64

	received chan streamed // from the callbacks of the channel, which wait
	once     sync.Once
	closed   chan struct{} // closed by Close
}

// streamed is a message before its value is decoded, or an error instead.
type streamed struct {
	reset bool
	pos   history.Position
	value json.RawMessage // nil if there is none
	data  []byte
	err   error
}

// Message is a message of a stream, or the beginning of one.
type Message[T any] struct {
	// Reset reports that what follows does not continue what came before, or that it is the
	// beginning. The program drops what it has made of earlier messages.
	Reset bool
	// Snapshot reports that Value is the snapshot of the stream, and the messages after it follow. It
	// is set with Reset only.
	Snapshot bool
	// Position is that of the message, or of the snapshot. It is zero for a binary message.
	Position history.Position
	Value    T
	Data     []byte // of a binary message, which has no Value; nil for others
}

// OpenStream subscribes to a stream, and waits until the server has accepted it or refused it, or
// ctx ends. The messages after the position since follow, if the server has them all; since is what
// Position has returned. Otherwise, and if it is zero, Events begins with a Reset.
func OpenStream[T any](
	ctx context.Context, o Opener, topic string, since history.Position,
) (*Stream[T], error) {
	s := &Stream[T]{
		topic: topic, channel: o.Channel(topic, map[string]any{"$state": struct{}{}}), idText: rand.Text()[:16] + "-",
		received: make(chan streamed), closed: make(chan struct{}),
	}
	s.channel.Resume(channel.ResumeConfig{Since: since, OnReset: s.onReset})
	s.channel.On("message", s.onMessage)
	s.channel.OnError(s.onError)
	if err := s.join(ctx); err != nil {
		s.Close()
		return nil, fmt.Errorf("mirror: open %s: %w", topic, err)
	}
	return s, nil
}

// streamReply is the reply to a join.
type streamReply struct {
	State *struct {
		Kind     string `json:"kind"`
		Limits   limits `json:"limits"`
		Snapshot *struct {
			Value json.RawMessage `json:"value"`
		} `json:"snapshot"`
	} `json:"$state"`
	History struct {
		Pos history.Position `json:"pos"`
	} `json:"$history"`
}

func (s *Stream[T]) join(ctx context.Context) error {
	reply, err := s.channel.Join().Wait(ctx)
	if err != nil {
		return wireError(err, "")
	}
	var r streamReply
	if err := reply.Decode(&r); err != nil || r.State == nil {
		return errNoState
	}
	if r.State.Kind != "stream" {
		return fmt.Errorf("%w: the object is a %s, not a stream", ErrInvalid, r.State.Kind)
	}
	s.most = r.State.Limits.Value
	return nil
}

// hand waits until Events takes a message, so that the server keeps those that follow.
func (s *Stream[T]) hand(m streamed) {
	select {
	case s.received <- m:
	case <-s.closed:
	case <-s.channel.Done():
	}
}

func (s *Stream[T]) onReset(reply serializer.Payload, _ string) {
	var r streamReply
	if err := reply.Decode(&r); err != nil {
		return // join reports it
	}
	m := streamed{reset: true, pos: r.History.Pos}
	if r.State != nil && r.State.Snapshot != nil {
		m.value = r.State.Snapshot.Value
	}
	s.hand(m)
}

func (s *Stream[T]) onMessage(p serializer.Payload) {
	if p.IsBinary() {
		s.hand(streamed{data: p.Bytes()})
		return
	}
	var e event
	if err := p.Decode(&e); err != nil || e.Value == nil {
		s.hand(streamed{err: fmt.Errorf("mirror: %s: %w", s.topic, errMalformed)})
		return
	}
	s.hand(streamed{pos: e.Pos, value: e.Value})
}

func (s *Stream[T]) onError(err error) {
	var overflow *channel.OverflowError
	if errors.As(err, &overflow) { // binary messages have no position by which they are read again
		s.hand(streamed{err: err})
	}
}

// Events returns the sequence of messages, until ctx or the stream ends. Each message is in one
// sequence: a loop continues where the one before has ended. While no loop runs, messages wait at
// the server, as long as that keeps them; if it does not, the sequence has a Reset.
//
// An error names a value that is not a T, with its message. A *channel.OverflowError says that
// binary messages were dropped, because the loop was too slow. The last error says why the stream
// has ended, unless it was closed by Close.
func (s *Stream[T]) Events(ctx context.Context) iter.Seq2[Message[T], error] {
	return func(yield func(Message[T], error) bool) {
		for ctx.Err() == nil {
			select {
			case in := <-s.received:
				m, err := decodeMessage[T](in)
				if !yield(m, err) {
					return
				}
			case <-s.closed:
				return
			case <-ctx.Done():
				return
			case <-s.channel.Done():
				select {
				case <-s.closed:
				default:
					_, cause := s.channel.State()
					yield(Message[T]{}, fmt.Errorf("mirror: %s: %w: %w", s.topic, channel.ErrClosed, cause))
				}
				return
			}
		}
	}
}

func decodeMessage[T any](in streamed) (m Message[T], err error) {
	m = Message[T]{Reset: in.reset, Snapshot: in.reset && in.value != nil, Position: in.pos, Data: in.data}
	if in.err != nil || in.value == nil {
		return m, in.err
	}
	if err := json.Unmarshal(in.value, &m.Value); err != nil {
		var zero T
		m.Value = zero
		return m, fmt.Errorf("mirror: a message at %s: %w", in.pos, err)
	}
	return m, nil
}

// Position returns the position of the last message that Events has yielded. A program that stores
// it, together with what it made of the messages, continues there by OpenStream.
func (s *Stream[T]) Position() history.Position { return s.channel.Position() }

// repeatPublish bounds the time in which a message is sent again. A server remembers its id for 2
// minutes.
const repeatPublish = 100 * time.Second

// Publish appends a message and returns its position. It waits for the connection. A message whose
// reply was lost is sent again with the same id, and appended once, unless the stream has meanwhile
// dropped it again. The error is one of the reasons of this package, or wraps history.ErrUncertain
// or channel.ErrClosed.
func (s *Stream[T]) Publish(ctx context.Context, v T) (history.Position, error) {
	text, err := s.encode(v)
	if err != nil {
		return history.Position{}, err
	}
	id := s.idText + strconv.FormatUint(s.ids.Add(1), 36)
	return s.push(ctx, "publish", map[string]any{"$id": id, "value": text}, true)
}

// PublishBinary appends a message of bytes, for example an update of a CRDT. It is not sent again:
// if its reply was lost, the error wraps history.ErrUncertain. Otherwise it is like Publish.
func (s *Stream[T]) PublishBinary(ctx context.Context, data []byte) (history.Position, error) {
	if s.most > 0 && len(data) > s.most {
		return history.Position{}, &LimitError{Err: ErrTooLarge, Max: s.most}
	}
	return s.push(ctx, "publish", serializer.Binary(data), false)
}

// Snapshot stores what the messages up to a position have made, for clients that begin or cannot
// continue. The server must still have all messages after the position: otherwise the error is
// ErrInvalid. A snapshot that is not newer than the stored one changes nothing.
func (s *Stream[T]) Snapshot(ctx context.Context, at history.Position, v T) error {
	text, err := s.encode(v)
	if err != nil {
		return err
	}
	_, err = s.push(ctx, "snapshot", map[string]any{"at": at, "value": text}, true)
	return err
}

func (s *Stream[T]) encode(v T) (json.RawMessage, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("mirror: %w", err)
	}
	if s.most > 0 && len(text) > s.most {
		return nil, &LimitError{Err: ErrTooLarge, Max: s.most}
	}
	return text, nil
}

// push pushes a write, again while its outcome is unknown if it may be repeated.
func (s *Stream[T]) push(ctx context.Context, event string, body any, repeat bool) (history.Position, error) {
	begin, pause, crashes := time.Now(), minPause, 0
	for {
		p := s.channel.Push(event, body)
		reply, err := p.Wait(ctx)
		var crashed *channel.RemoteError
		switch {
		case err == nil:
			var w struct{ Pos history.Position }
			if err := reply.Decode(&w); err != nil {
				return w.Pos, fmt.Errorf("mirror: %s to %s: %w", event, s.topic, errMalformed)
			}
			return w.Pos, nil
		case ctx.Err() != nil:
			p.Cancel()
		case errors.Is(err, channel.ErrClosed):
		case errors.Is(err, push.ErrLost), errors.Is(err, push.ErrTimeout), errors.Is(err, reasonUnavailable):
			if errors.As(err, &crashed) {
				crashes++
			}
			if !repeat || crashes == maxCrashes || time.Since(begin) > repeatPublish {
				err = fmt.Errorf("%w: %w", history.ErrUncertain, err)
				break
			}
			if sleep(ctx, pause/2+mrand.N(pause)) == nil {
				pause = min(2*pause, maxPause)
				continue
			}
		}
		return history.Position{}, fmt.Errorf("mirror: %s to %s: %w", event, s.topic, wireError(err, ""))
	}
}

// Close ends the sequences of Events and leaves the topic. It does not wait for the server.
func (s *Stream[T]) Close() {
	s.once.Do(func() {
		close(s.closed)
		s.channel.Leave()
	})
}
