package channel

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestClientRandom compares random histories with the model and checks invariants.
func TestClientRandom(t *testing.T) {
	t.Parallel()
	for seed := range 2000 {
		clientHistory(t, uint64(seed))
	}
}

func clientHistory(t *testing.T, seed uint64) {
	r := newClientRig()
	m := &clientModel{
		phase: "fresh", auth: "pending", sent: map[string]int{}, kept: map[string]bool{}, timers: map[string]bool{},
		now: map[string]bool{},
	}
	w := &clientWorld{Rand: rand.New(rand.NewPCG(seed, 1)), m: m}
	var log []string
	fail := func(format string, args ...any) {
		t.Helper()
		t.Fatalf("seed %d: %s\n%s", seed, fmt.Sprintf(format, args...), strings.Join(log, "\n"))
	}
	answered := map[string]bool{}
	sentBefore, newest := map[int]bool{}, 0
	lastRef, requested := 0, 0
	madeIn, ends := map[string]int{}, 0 // the lives in which pushes were made; the lives that have ended
	for step := range 120 {
		line := "end"
		w.isLate = step > 110
		switch {
		case len(w.held) > 0 && w.isLate:
			line = w.release(0)
		case step < 119:
			line = w.next()
		}
		if name, ok := strings.CutPrefix(line, "push "); ok && !w.reordered {
			madeIn[name] = w.lives
		}
		lifeBefore := r.s.life
		got := r.do(line)
		log = append(log, line+" => "+got)
		m.step(line)

		answers, sends, shown := map[string]string{}, []string(nil), ""
		for o := range strings.SplitSeq(got, "; ") {
			f := strings.SplitN(o, " ", 3)
			switch f[0] {
			case "params":
				if m.taken {
					fail("params requested while another channel is leaving the topic")
				}
				if m.held() {
					fail("params requested while the join waits for the authentication")
				}
				if m.parked || m.paused {
					fail("params requested while the join waits for Rejoin or the end of a pause")
				}
				requested, _ = strconv.Atoi(f[1])
			case "errored", "closed":
				if len(answers) > 0 {
					fail("a push was answered before the state changed")
				}
			case "answer":
				if old, ok := answers[f[1]]; ok {
					f[2] = old + "+" + f[2]
				}
				answers[f[1]] = f[2]
			case "send":
				sends = append(sends, strings.TrimPrefix(o, "send "))
			case "event", "drop":
				shown = f[0]
			case "closed!":
				ends++
			}
		}
		if !maps.Equal(answers, m.answers) {
			fail("answers %v, model %v", answers, m.answers)
		}
		if !slices.Equal(sends, m.sends) {
			fail("sends %v, model %v", sends, m.sends)
		}
		if shown != m.shown {
			fail("shown %q, model %q", shown, m.shown)
		}
		phase := r.s.status.String()
		if phase == "closed" {
			phase = "fresh"
			if r.s.over {
				phase = "gone"
			}
		}
		if r.attached != r.s.isLive() {
			fail("the channel has the topic: %t, and is live: %t", r.attached, r.s.isLive())
		}
		if r.s.life < lifeBefore || r.s.life > lifeBefore && ends != w.begun {
			fail("life %d after %d of which %d have ended", r.s.life, w.begun, ends)
		}
		if r.s.life > lifeBefore {
			w.begun++
		}
		if phase != m.phase {
			fail("phase %s, model %s", phase, m.phase)
		}
		if armed := r.armed; !maps.Equal(armed, m.timers) {
			fail("armed %v, model %v", armed, m.timers)
		}
		if r.s.tries != m.tries {
			fail("tries %d, model %d", r.s.tries, m.tries)
		}

		// Invariants that do not depend on the model.
		for name := range answers {
			if !strings.HasPrefix(name, "join") && answered[name] {
				fail("%s was answered twice", name)
			}
			answered[name] = true
		}
		if len(sends) > 0 && !w.online {
			fail("sent while there is no connection")
		}
		if len(sends) > 0 && m.taken {
			fail("sent while another channel is leaving the topic")
		}
		if m.phase == "joining" && !m.waits() && requested != m.attempt {
			fail("join %d does not wait, and no params were requested", m.attempt)
		}
		for _, s := range sends {
			var joinRef, ref int
			var event string
			fmt.Sscan(s, &joinRef, &ref, &event)
			if ref <= lastRef {
				fail("ref %d after %d", ref, lastRef)
			}
			lastRef = ref
			for name, life := range madeIn {
				if event == "phx_join" && life < int(r.s.life) && !answered[name] {
					fail("%s of life %d was not answered before the join of life %d", name, life, r.s.life)
				}
			}
			if n, err := strconv.Atoi(strings.TrimPrefix(event, "p")); err == nil {
				if !sentBefore[n] && n < newest {
					fail("p%d was sent after p%d", n, newest)
				}
				sentBefore[n], newest = true, max(n, newest)
			}
		}
		if wants := r.s.status == StateErrored && w.online && !m.manual; (wants || m.paused) != r.armed["rejoin"] {
			fail("the rejoin timer runs if and only if the channel is errored and connected, or pauses")
		}
		if r.s.isHeld != m.parked && m.isLive() {
			fail("waits for Rejoin: %t, model: %t", r.s.isHeld, m.parked)
		}
	}
	for n := range w.pushes {
		if name := fmt.Sprintf("p%d", n+1); !answered[name] {
			fail("%s was never answered", name)
		}
	}
	for _, name := range w.called {
		if !answered[name] {
			fail("%s was never answered", name)
		}
	}
	if len(r.armed) > 0 {
		fail("timers left: %v", r.armed)
	}
}
