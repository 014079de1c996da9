package main

import (
	"strings"
	"testing"
)

// TestChecker checks that a checker reports each kind of fault, and none in a correct history.
func TestChecker(t *testing.T) {
	t.Parallel()
	say := func(generation, n, seq uint64) func(*checker) {
		return func(w *checker) { w.checkMessage(message{From: "bob", Generation: generation, N: n, Seq: seq}) }
	}
	own := func(n uint64) func(*checker) {
		return func(w *checker) { w.checkMessage(message{From: "ann", Generation: w.generation, N: n, Seq: n}) }
	}
	begin := func(w *checker) { w.beginInterval(w.report.clock.Add(10)) }
	end := (*checker).endInterval
	drop := (*checker).recordDrop
	lossy := func(w *checker) { w.lossy = true }
	checkTick := func(n uint64) func(*checker) { return func(w *checker) { w.checkTick(tick{n}) } }
	checkReply := func(event string, n uint64) func(*checker) {
		return func(w *checker) { w.checkReply(event, answer{w.generation, n}) }
	}
	generations := func(w *checker) {
		for i := range uint64(maxGenerations) {
			w.checkMessage(message{From: "bob", Generation: 20 + i, N: 1, Seq: 20 + i})
		}
	}
	missed := func(n int) func(*checker) {
		return func(w *checker) {
			if got := w.report.counted("missed"); got != n {
				w.fault("%d missed, not %d", got, n)
			}
		}
	}
	type steps = []func(*checker)
	for name, c := range map[string]struct {
		steps steps
		fault string
	}{
		"correct": {
			steps{begin, say(15, 1, 1), say(15, 2, 2), say(19, 1, 3), end, begin, say(19, 8, 20)},
			"",
		},
		"old generation ends late": {
			steps{begin, say(15, 1, 1), say(19, 1, 4), say(15, 2, 2), say(15, 3, 3)},
			"",
		},
		// The missing message was never sent.
		"sequence may skip":   {steps{begin, say(15, 1, 1), say(15, 2, 4)}, ""},
		"before the interval": {steps{say(15, 1, 1)}, "outside"},
		"after the interval":  {steps{begin, end, say(15, 1, 1)}, "outside"},
		"duplicate":           {steps{begin, say(15, 1, 1), say(15, 1, 1)}, "after number 1"},
		"duplicate in the next interval": {
			steps{begin, say(15, 1, 1), end, begin, say(15, 1, 1)},
			"after number 1",
		},
		"duplicate in a later generation": {
			steps{begin, say(15, 1, 1), say(19, 1, 1)},
			"in generation 15",
		},
		"duplicate in an earlier generation": {
			steps{begin, say(19, 1, 2), say(15, 1, 2)},
			"in generation 19",
		},
		"out of order": {
			steps{begin, say(15, 1, 1), say(15, 3, 3), say(15, 2, 2)},
			"right after number 1",
		},
		"gap":          {steps{begin, say(15, 1, 1), say(15, 3, 3)}, "right after number 1"},
		"recorded gap": {steps{begin, drop, say(15, 1, 1), say(15, 3, 3)}, ""},
		"gap, lossy":   {steps{lossy, begin, say(15, 1, 1), say(15, 3, 3)}, ""},
		"gaps are counted": {
			steps{lossy, begin, say(15, 1, 1), say(15, 4, 4), say(19, 3, 9), checkTick(2), missed(2 + 2 + 1)},
			"",
		},
		"gap between intervals": {
			steps{lossy, begin, say(15, 1, 1), end, begin, say(15, 4, 4), missed(0)},
			"",
		},
		"many generations": {steps{begin, generations, say(90, 1, 90), say(91, 1, 91)}, ""},
		"old generation":   {steps{begin, generations, say(15, 1, 1)}, "old generation"},
		"duplicate, lossy": {
			steps{lossy, begin, say(15, 1, 1), say(15, 1, 1)},
			"after number 1",
		},
		"gap, recorded in the previous interval": {
			steps{begin, drop, end, begin, say(15, 1, 1), say(15, 3, 3)},
			"right after number 1",
		},
		"start is missing": {steps{begin, say(15, 2, 2)}, "as the first"},
		"generation began before the interval": {
			steps{begin, end, begin, say(11, 7, 7)},
			"",
		},
		"ticks": {
			steps{begin, checkTick(1), checkTick(2), checkReply("tick", 2), end, begin, checkTick(1)},
			"",
		},
		"missing tick":       {steps{begin, checkTick(1), checkTick(3)}, "after tick 1"},
		"missing first tick": {steps{begin, checkTick(2)}, "after tick 0"},
		"late ticks": {
			steps{begin, checkTick(1), checkReply("tick", 2)},
			"when 1 was received",
		},
		"reply": {steps{begin, own(1), own(2), checkReply("say", 2)}, ""},
		"reply too early": {
			steps{begin, own(1), checkReply("say", 2)},
			"when 1 was received",
		},
		"reply while leaving": {
			steps{begin, own(1), func(w *checker) { w.setLeaving(true) }, checkReply("say", 2)},
			"",
		},
		"reply for another generation": {
			steps{begin, func(w *checker) { w.checkReply("say", answer{w.generation + 1, 0}) }},
			"answered for generation 11",
		},
		"joined with an old generation": {
			steps{begin, func(w *checker) { w.beginInterval(1) }},
			"joined as 1",
		},
	} {
		w := newChecker(newReport(), "ann", "room:1", false)
		for _, step := range c.steps {
			step(w)
		}
		got := strings.Join(w.report.faults(), "\n")
		if c.fault == "" && got != "" || !strings.Contains(got, c.fault) {
			t.Errorf("%s: found %q, want %q", name, got, c.fault)
		}
	}
}
