package channel

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// serverModel is a second implementation of the rules of serverStep. It derives them from the
// inputs so far, and predicts what a channel sends and calls.
type serverModel struct {
	seen map[string]int // the inputs so far

	answer   string // to the join: "", "ok", "error" or "crashed"
	complete bool   // the positive answer was sent
	handled  bool   // the mailbox is done with the join
	mailbox  bool   // the goroutine of the mailbox answered the join
	killed   bool   // to be killed when the join was handled

	over      string // how a joined channel ended: "", or the input that ended it
	takenOver bool   // the new channel sends phx_close
	accepted  bool   // Terminate is due
	crashing  bool   // phx_error is due after Terminate
	ended     bool
}

func (m *serverModel) isJoined() bool { return m.complete && m.over == "" && !m.takenOver }

// giveUp answers the join in place of its callback.
func (m *serverModel) giveUp() []string {
	m.answer = "crashed"
	return []string{"tell crashed", "answered!"}
}

// last returns the outputs that end a channel: Terminate if it is due, or those after it.
func (m *serverModel) last(reason string) []string {
	if m.accepted {
		m.accepted = false
		return []string{"terminate " + reason}
	}
	return m.end()
}

func (m *serverModel) end() []string {
	if m.ended {
		return nil
	}
	m.ended = true
	if m.crashing {
		return []string{"tell phx_error", "end"}
	}
	return []string{"end"}
}

func (m *serverModel) kill() []string {
	switch {
	case m.answer == "":
		return m.giveUp()
	case m.answer == "ok" && !m.handled:
		m.killed = true
	case m.isJoined():
		m.over = "killed"
		return []string{"tell phx_error"}
	}
	return nil
}

// step returns the expected outputs of an input.
func (m *serverModel) step(line string) []string {
	m.seen[line]++
	switch line {
	case "join":
		if m.answer == "" {
			return []string{"call join"}
		}
	case "accepted":
		m.accepted = true
		switch {
		case m.answer != "":
			return nil
		case m.seen["replaced"] > 0 && m.seen["leaving"] == 0:
			m.takenOver = true
			m.answer, m.mailbox = "ok", true
			return []string{"send ok"}
		}
		m.answer, m.mailbox = "ok", true
		return []string{"subscribe", "send ok"}
	case "answered":
		m.complete = m.answer == "ok"
	case "refused", "failed", "unanswerable":
		if line == "unanswerable" {
			m.accepted = true
		}
		if m.answer == "" {
			m.answer, m.mailbox = "error", true
			return []string{"tell reply"}
		}
	case "done":
		out := []string{"tell previous"}
		if m.handled = true; m.mailbox {
			out = append(out, "answered!")
		}
		if m.killed {
			out = append(out, m.kill()...)
		}
		return out
	case "timeout":
		if m.answer == "" {
			return m.giveUp()
		}
	case "abandoned":
		if m.answer == "" {
			return m.giveUp()
		}
		if m.over == "" && (m.complete || m.answer != "ok") {
			m.over = "abandoned"
		}
		if m.complete || m.answer != "ok" {
			m.crashing = false
		}
	case "replaced":
		if m.seen["leaving"] == 0 && m.answer == "ok" && m.over == "" {
			m.takenOver = true
		}
	case "succeeded":
		if m.takenOver && m.complete && m.seen["handed over"] == 0 {
			m.seen["handed over"]++
			return []string{"hand over"}
		}
	case "killed":
		return m.kill()
	case "leave", "stop":
		if m.isJoined() {
			m.over = line
			frames, reason := "tell phx_close", "stop"
			if line == "leave" {
				frames, reason = "tell reply phx_close", "left"
			}
			return append([]string{frames}, m.last(reason)...)
		}
	case "crash":
		if m.isJoined() {
			m.over, m.crashing = line, true
			return m.last("cause")
		}
	case "exited", "exited accepted":
		if line == "exited accepted" {
			m.accepted = true
		}
		if m.answer == "" {
			return m.giveUp()
		}
		if m.isJoined() {
			m.over = line
			return []string{"tell phx_error"}
		}
	case "lost":
		if m.isJoined() {
			m.over = line
			return []string{"tell phx_error lost"}
		}
	case "close":
		if m.ended {
			return nil
		}
		if m.isJoined() {
			m.over = line
		}
		return m.last("cause")
	case "terminated":
		return m.end()
	case "finished":
		return []string{"ended!"}
	}
	return nil
}

// TestServerRandom compares random histories with the model and checks invariants.
func TestServerRandom(t *testing.T) {
	t.Parallel()
	ends := map[string]int{}
	for seed := range 5000 {
		ends[serverHistory(t, uint64(seed))]++
	}
	t.Logf("%d ends: %v", len(ends), ends)
	for _, end := range []string{
		"ok leave", "ok stop", "ok crash", "ok exited", "ok lost", "ok killed", "ok close",
		"ok taken over", "error", "crashed",
	} {
		if ends[end] < 50 {
			t.Errorf("only %d histories end by %s, which is too few to test it", ends[end], end)
		}
	}
}

// serverHistory runs one history and returns the answer to the join and the channel's end.
func serverHistory(t *testing.T, seed uint64) string {
	r := newServerRig()
	w := newServerWorld(seed, r)
	m := &serverModel{seen: map[string]int{}}
	var log, all []string
	fail := func(format string, args ...any) {
		t.Helper()
		t.Fatalf("seed %d: %s\n%s", seed, fmt.Sprintf(format, args...), strings.Join(log, "\n"))
	}
	for steps := 0; !slices.Contains(all, "ended!"); steps++ {
		if steps == 60 { // by then, the connection ends
			w.sawEnd = true
			w.closeQueue(true, true)
		}
		if steps > 200 {
			fail("the channel does not end")
		}
		line := w.next()
		if line == "" {
			fail("no input is possible")
		}
		before := r.s.status
		got := r.do(line)
		log = append(log, line+" => "+got)
		w.took(line, got)
		if r.s.status < before {
			fail("from %v back to %v", before, r.s.status)
		}
		if want := m.step(line); !slices.Equal(predicted(got), want) {
			fail("outputs %q, model %q", predicted(got), want)
		}
		if r.s.givenUp != (m.answer == "crashed") {
			fail("given up: %t, model: %s", r.s.givenUp, m.answer)
		}
		if i := slices.IndexFunc(r.out.all(), callsUser); i >= 0 {
			if i < r.out.n-1 {
				fail("an output follows a callback, which may end the goroutine")
			}
			if in := serverRigInputs[line].kind; in >= serverInWatched {
				fail("a callback is called on the goroutine of another input")
			}
		}
		all = append(all, strings.Split(got, "; ")...)
	}
	checkServerHistory(all, m, fail)
	how := m.answer
	switch {
	case m.takenOver:
		return how + " taken over"
	case m.over != "" && m.answer == "ok":
		return how + " " + m.over
	}
	return how
}

// checkServerHistory checks the outputs of a whole history.
func checkServerHistory(all []string, m *serverModel, fail func(string, ...any)) {
	count := func(prefix string) (n int) {
		for _, o := range all {
			if o == prefix || strings.HasPrefix(o, prefix+" ") {
				n++
			}
		}
		return n
	}
	answers := count("send ok") + count("tell crashed") + count("tell reply") - count("tell reply phx_close")
	if answers != 1 || count("answered!") != 1 {
		fail("%d answers to the join, and %d notifications", answers, count("answered!"))
	}
	if n := count("tell phx_close") + count("tell reply phx_close") + count("tell phx_error") + count("hand over"); n > 1 {
		fail("%d frames end the channel", n)
	} else if n == 1 && count("send ok") == 0 {
		fail("a frame ends a channel that was not joined")
	}
	accepted := m.seen["accepted"] + m.seen["unanswerable"] + m.seen["exited accepted"]
	if n := count("terminate"); n != accepted {
		fail("terminated %d times, accepted %d times", n, accepted)
	}
	if count("end") != 1 || all[len(all)-1] != "ended!" {
		fail("no end")
	}
	end := slices.Index(all, "end")
	for _, o := range all[end+1:] {
		if strings.HasPrefix(o, "tell") || strings.HasPrefix(o, "send") || strings.HasPrefix(o, "terminate") {
			fail("%s after the end", o)
		}
	}
	if i := slices.Index(all, "subscribe"); i >= 0 && !slices.Contains(all[i:end], "unsubscribe") {
		fail("still subscribed")
	}
	if !slices.ContainsFunc(all[:end], func(o string) bool { return strings.HasPrefix(o, "cancel ") }) {
		fail("the context is not cancelled")
	}
}

// predicted returns those of the outputs that the model predicts.
func predicted(outputs string) (seen []string) {
	for o := range strings.SplitSeq(outputs, "; ") {
		verb, _, _ := strings.Cut(o, " ")
		switch verb {
		case "call", "subscribe", "send", "tell", "hand", "answered!", "terminate", "end", "ended!":
			seen = append(seen, o)
		}
	}
	return seen
}

func callsUser(o serverOutput) bool {
	return o.kind == serverOutCallJoin || o.kind == serverOutTerminate || o.kind == serverOutEnd
}
