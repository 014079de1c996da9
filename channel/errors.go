package channel

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"

	"bennu.example/internal/promise"
	"bennu.example/internal/safecall"
	"bennu.example/push"
	"bennu.example/serializer"
)

var (
	// ErrStop ends the channel normally if a callback returns it: the client receives phx_close and
	// does not rejoin. It is also the reason given to Terminate then.
	ErrStop = errors.New("channel stopped")
	// ErrLeft is the reason given to Terminate when the client left.
	ErrLeft = errors.New("client left")
	// ErrReplaced is the reason given to Terminate when the client joined the topic again on the same
	// connection.
	ErrReplaced = errors.New("client joined again")
	// ErrJoinTimeout is wrapped by the cause of a join's context when the join took longer than
	// socket.Config.JoinTimeout. The reason given to Terminate wraps it if the join is accepted later.
	ErrJoinTimeout = errors.New("join took too long")
	// ErrClosed is wrapped by the reason given to Terminate when the connection ended, and by the
	// errors of Push, Broadcast, Reply and Send from then on.
	ErrClosed = errors.New("channel closed")
	// ErrNotJoined is wrapped by the errors of Push, Broadcast and Reply before the join is answered.
	// A join callback that needs one of them calls [Channel.Send], and does it in an [Info] callback.
	ErrNotJoined = errors.New("channel not joined yet")
	// ErrFull is returned by Send when the channel's mailbox is full. It is the reason given to
	// Terminate when a callback took so long that a message found no room.
	ErrFull = errors.New("channel's mailbox is full")
	// ErrNoRef is wrapped by the error of Reply for a Ref that identifies no message.
	ErrNoRef = errors.New("no message to reply to")
	// ErrNoHandler is wrapped by the error of Call for an event that the client does not answer.
	ErrNoHandler = errors.New("client has no handler for the event")
	// ErrTooManyCalls is wrapped by the error of Call while 64 calls of the channel are open.
	ErrTooManyCalls = errors.New("too many open calls")
	// ErrNoCredit is wrapped by the error of Push if the client has no credit for the event, which is
	// not sent: see [Channel.Ready]. A callback may return it: the channel goes on.
	ErrNoCredit = errors.New("client has no credit")
)

// closedError is the end of the connection as the reason for a channel's end. Its text is made when
// somebody reads it, because most such reasons are of no interest.
type closedError struct{ reason error }

func (e *closedError) Error() string        { return fmt.Sprintf("%v: %v", ErrClosed, e.reason) }
func (e *closedError) Unwrap() error        { return e.reason }
func (e *closedError) Is(target error) bool { return target == ErrClosed }

// maxReason is the length of a reason in bytes, as in a WebSocket's close frame.
const maxReason = 123

// Stop returns an error that ends the channel as ErrStop does. The client receives phx_close with
// the reason. The reason given to Terminate, and the one that the client receives, match both
// ErrStop, at the server, and the Reason, at both ends. A reason is at most 123 bytes long; the
// rest is cut off.
func Stop(reason push.Reason) error { return &stopError{clipReason(reason)} }

// stopError is the result of Stop.
type stopError struct{ reason push.Reason }

func (e *stopError) Error() string   { return ErrStop.Error() + ": " + string(e.reason) }
func (e *stopError) Unwrap() []error { return []error{ErrStop, e.reason} }

// clipReason returns at most maxReason bytes of valid UTF-8.
func clipReason(reason push.Reason) push.Reason {
	text := strings.ToValidUTF8(string(reason), "\uFFFD")
	if len(text) > maxReason {
		text = strings.ToValidUTF8(text[:maxReason], "")
	}
	return push.Reason(text)
}

// closeReason returns the payload of phx_close for a channel that ends with err.
func closeReason(err error) serializer.Payload {
	stop, ok := err.(*stopError) //nolint:errorlint // as fail and Remove pass it
	if !ok || stop.reason == "" {
		return serializer.Payload{}
	}
	return promise.Reason(string(stop.reason))
}

// asRejection returns the reply that an error of a callback stands for.
func asRejection(err error) (reply push.Reply, ok bool) {
	var rejected *push.Error
	if errors.As(err, &rejected) {
		return push.Reply{Status: rejected.Status, Payload: rejected.Payload}, true
	}
	var reason push.Reason
	if errors.As(err, &reason) && !errors.Is(err, ErrStop) {
		return errorReply(string(reason)), true
	}
	return push.Reply{}, false
}

// PanicError is the reason given to Terminate when a callback panicked. The client does not receive
// its text.
type PanicError = safecall.PanicError

// payloadError is a payload that cannot be decoded into the type that its callback takes.
type payloadError struct {
	want reflect.Type
	err  error
}

// Error is for the log. It says what does not fit, but quotes nothing of the payload, as a
// decoder's own text may.
func (e *payloadError) Error() string {
	text := fmt.Sprintf("channel: invalid payload: want %v", e.want)
	var field *json.UnmarshalTypeError
	if errors.As(e.err, &field) && field.Field != "" {
		got, _, _ := strings.Cut(field.Value, " ") // "number 5"
		text += fmt.Sprintf(": %s is a %s, not %v", field.Field, got, field.Type)
	}
	return text
}

func (e *payloadError) Unwrap() error { return e.err }

// RemoteError is the cause when the server ended the channel: with phx_error, after which the
// channel is joined again, or with phx_close, after which it is not.
type RemoteError struct {
	Event   string
	Payload serializer.Payload
}

func (e *RemoteError) Error() string {
	if r := (&push.Error{Payload: e.Payload}).Reason(); r != "" {
		return fmt.Sprintf("channel: server sent %s: %s", e.Event, r)
	}
	return "channel: server sent " + e.Event
}

// Is reports whether target is the push.Reason that the server gave.
func (e *RemoteError) Is(target error) bool { return (&push.Error{Payload: e.Payload}).Is(target) }
