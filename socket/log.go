package socket

import (
	"errors"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"bennu.example/internal/ratelimit"
)

// A message is logged up to logBurst times in a row, and then once every logEvery. A message whose
// fields are always the same is logged once every rareEvery.
const (
	logBurst  = 10
	logEvery  = 6 * time.Second
	rareEvery = time.Minute
)

var (
	usualLog = ratelimit.Rate{Every: logEvery, Burst: logBurst * logEvery}
	rareLog  = ratelimit.Rate{Every: rareEvery, Burst: rareEvery}
)

// logGates bound how often a message is logged, so that no client can flood the log. The keys are
// constants of this program.
type logGates struct {
	mu    sync.Mutex
	gates map[string]*logGate
}

type logGate struct {
	bucket     ratelimit.Bucket
	suppressed uint64 // calls since the message was last logged
}

// pass reports whether a message is to be logged, and how many were suppressed since the last one.
// A message must always come with the same rate.
func (g *logGates) pass(message string, r ratelimit.Rate) (ok bool, suppressed uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.gates == nil {
		g.gates = make(map[string]*logGate)
	}
	one := g.gates[message]
	if one == nil {
		one = new(logGate)
		g.gates[message] = one
	}
	if !one.bucket.Take(r) {
		one.suppressed++
		return false, 0
	}
	suppressed, one.suppressed = one.suppressed, 0
	return true, suppressed
}

// log begins an event of the log for a constant message, which the caller passes to Msg as well. It
// returns nil, whose methods do nothing, if the message was logged too often. The message must not
// contain text of a client, because only fields are escaped.
func (h *Handler) log(level zerolog.Level, message string) *zerolog.Event {
	return h.logAt(usualLog, level, message)
}

// logRarely is log for a message whose fields are always the same.
func (h *Handler) logRarely(level zerolog.Level, message string) *zerolog.Event {
	return h.logAt(rareLog, level, message)
}

func (h *Handler) logAt(r ratelimit.Rate, level zerolog.Level, message string) *zerolog.Event {
	if level < h.cfg.Logger.GetLevel() || level < zerolog.GlobalLevel() {
		return nil
	}
	ok, suppressed := h.logGates.pass(message, r)
	if !ok {
		return nil
	}
	e := h.cfg.Logger.WithLevel(level)
	if suppressed > 0 {
		e = e.Uint64("suppressed", suppressed)
	}
	return e
}

// The maximum length in the log, in bytes, of a text and of an error that a client may have chosen.
const (
	maxLogText  = 200
	maxLogError = 2000
)

// clip shortens a text of a client, and escapes control characters and others that a terminal does
// not display.
func clip(s string) string { return clipTo(s, maxLogText) }

func clipTo(s string, most int) string {
	cut := ""
	if len(s) > most {
		s, cut = strings.ToValidUTF8(s[:most], ""), "…"
	}
	for _, c := range s {
		if !strconv.IsPrint(c) || c == '\uFFFD' {
			quoted := strconv.Quote(s)
			return quoted[1:len(quoted)-1] + cut
		}
	}
	return s + cut
}

// withError adds an error whose text a client may have influenced.
func withError(e *zerolog.Event, err error) *zerolog.Event {
	if e == nil { // the line is not logged
		return e
	}
	if v := reflect.ValueOf(err); !v.IsValid() || v.Kind() == reflect.Pointer && v.IsNil() {
		return e.Err(err)
	}
	text := err.Error()
	if clipped := clipTo(text, maxLogError); clipped != text {
		err = errors.New(clipped)
	}
	return e.Err(err)
}
