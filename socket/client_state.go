package socket

import (
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
)

// Wanted is the state that the program asked for.
type Wanted uint8

const (
	WantPaused    Wanted = iota // no connection: before Connect and after Pause
	WantConnected               // a connection; the client reconnects when it is lost
	WantClosed                  // after Close
)

func (w Wanted) String() string {
	return stateName([]string{"paused", "connected", "closed"}, uint8(w))
}

// Status is the state of a client's connection.
type Status uint8

const (
	// StatusDisconnected means that there is no connection because none is wanted.
	StatusDisconnected Status = iota
	// StatusConnecting means that an attempt to connect is under way.
	StatusConnecting
	// StatusConnected means that there is a connection.
	StatusConnected
	// StatusWaiting means that the connection was lost or an attempt failed. The next attempt is at
	// State.Until.
	StatusWaiting
	// StatusDenied means that the server refused the client with 401 or 403, ended its connection for
	// good, or closed it because its token had expired. The next attempt is at State.Until. If that is
	// zero, there is none before Connect or Authenticate is called.
	StatusDenied
	// StatusFailed means that there is no further attempt before Connect is called. State.Cause has
	// the reason.
	StatusFailed
)

func (s Status) String() string {
	return stateName([]string{"disconnected", "connecting", "connected", "waiting", "denied", "failed"}, uint8(s))
}

func stateName(names []string, i uint8) string {
	if int(i) < len(names) {
		return names[i]
	}
	return fmt.Sprintf("%d", i)
}

// State is the state of a client at one moment.
type State struct {
	Wanted    Wanted
	Status    Status
	Since     time.Time // when Status changed last
	Until     time.Time // of StatusWaiting and StatusDenied: the next attempt, or zero
	Tries     int       // attempts that failed in a row, since the last that succeeded
	Cause     error     // what ended the last connection or the last attempt
	Transport string    // "websocket" or "longpoll", if connected
}

// String returns one line for a log, such as "waiting, attempt 3 at 15:04:05.250: connection
// refused". It contains no payload, parameter or token, and at most 200 bytes of the cause.
func (s State) String() string {
	line := s.Status.String()
	switch {
	case s.Status == StatusConnected:
		line += " by " + s.Transport
	case s.Status == StatusConnecting && s.Tries > 0:
		line += fmt.Sprintf(", attempt %d", s.Tries+1)
	case s.Status == StatusDisconnected:
		line += ", " + s.Wanted.String()
	case !s.Until.IsZero():
		line += fmt.Sprintf(", attempt %d at %s", s.Tries+1, s.Until.Format("15:04:05.000"))
	}
	if s.Cause == nil {
		return line
	}
	return line + ": " + clipCause(s.Cause.Error())
}

// clipCause shortens an error's text to one line.
func clipCause(text string) string {
	const most = 200
	text = strings.ToValidUTF8(text, "\uFFFD")
	text = strings.Join(strings.FieldsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f }), "; ")
	if len(text) <= most {
		return text
	}
	cut := most
	for !utf8.RuneStart(text[cut]) {
		cut--
	}
	return text[:cut] + "…"
}

// next returns the state after a change, and whether watchers need a notice. States with a cause
// count as different, because errors may not be comparable.
func (s State) next(change func(*State)) (State, bool) {
	now := s
	change(&now)
	if s.Cause == nil && now.Cause == nil && now == s {
		return s, false
	}
	if now.Status != s.Status {
		now.Since = time.Now()
	}
	return now, true
}
