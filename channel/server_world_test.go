package channel

import (
	"math/rand/v2"
	"strings"
)

// serverWorld generates random inputs of a channel. It simulates the mailbox and the goroutine of
// the callbacks, so that the driver could feed the inputs in this order.
type serverWorld struct {
	*rand.Rand
	r *serverRig

	queue   []string // in the mailbox; "close" is its last item
	closed  bool     // the mailbox accepts nothing more
	running []string // the calls in which the callbacks' goroutine is, innermost last

	sawReplaced, sawAbandoned, sawEnd bool
}

func newServerWorld(seed uint64, r *serverRig) *serverWorld {
	return &serverWorld{Rand: rand.New(rand.NewPCG(seed, 2)), r: r, queue: []string{"join"}}
}

func (w *serverWorld) pick(list ...string) string { return list[w.IntN(len(list))] }

func (w *serverWorld) enqueue(what string) {
	if !w.closed {
		w.queue = append(w.queue, what)
	}
}

// closeQueue closes the mailbox, as Mailbox.Close does.
func (w *serverWorld) closeQueue(keep, last bool) {
	if !keep {
		var kept []string
		for i, what := range w.queue {
			if what == "close" || i == 0 && what == "join" {
				kept = append(kept, what)
			}
		}
		w.queue = kept
	}
	if !w.closed && last {
		w.queue = append(w.queue, "close")
	}
	w.closed = true
}

// took updates the simulation with the outputs of a step.
func (w *serverWorld) took(line, outputs string) {
	switch line {
	case "join", "leave", "close": // complete unless the step calls user code
	case "accepted":
		w.running[len(w.running)-1] = "answering"
	case "answered":
		w.running[len(w.running)-1] = "join done"
	case "refused", "failed", "unanswerable", "exited accepted":
		w.running[len(w.running)-1] = "join done"
	case "exited":
		if w.running[len(w.running)-1] == "join callback" {
			w.running[len(w.running)-1] = "join done"
		} else {
			w.pop()
		}
	case "done", "stop", "crash", "lost", "terminated", "finished":
		w.pop()
	}
	for o := range strings.SplitSeq(outputs, "; ") {
		switch {
		case o == "call join":
			w.running[len(w.running)-1] = "join callback"
		case strings.HasPrefix(o, "terminate "):
			w.running = append(w.running, "terminate")
		case o == "end":
			w.running = append(w.running, "end")
		case strings.HasPrefix(o, "finish queue"):
			w.closeQueue(true, true)
		case strings.HasPrefix(o, "drop queue"):
			w.closeQueue(false, o != "drop queue -")
		}
	}
}

func (w *serverWorld) pop() { w.running = w.running[:len(w.running)-1] }

// next returns an input that is possible now, or "" if there are no more.
func (w *serverWorld) next() string {
	for range 1000 {
		if w.IntN(3) == 0 {
			if line := w.fromOutside(); line != "" {
				return line
			}
		} else if line := w.fromCallbacks(); line != "" {
			return line
		}
	}
	return ""
}

// fromOutside returns an input of a goroutine other than the callbacks', or "".
func (w *serverWorld) fromOutside() string {
	switch w.IntN(14) {
	case 0, 1:
		return "watched"
	case 2, 3:
		if w.r.armed["join"] {
			return "timeout"
		}
	case 4:
		if !w.sawReplaced && !w.sawEnd && w.IntN(2) == 0 {
			w.enqueue("leave")
			return "leaving"
		}
	case 5:
		if w.IntN(3) == 0 {
			return "killed"
		}
	case 6:
		if !w.sawReplaced && !w.sawEnd {
			w.sawReplaced = true
			return "replaced"
		}
	case 7:
		if w.sawReplaced && !w.sawAbandoned {
			w.sawAbandoned = true
			return "abandoned"
		}
	case 8:
		if w.sawReplaced {
			return "succeeded"
		}
	case 9:
		if w.IntN(6) == 0 { // the connection ends
			w.sawEnd = true
			w.closeQueue(w.IntN(2) == 0, true)
		}
	default:
		if !w.sawReplaced && !w.sawEnd {
			w.enqueue("event")
		}
	}
	return ""
}

// fromCallbacks continues the goroutine of the callbacks. It returns the input that results, or "".
func (w *serverWorld) fromCallbacks() string {
	if len(w.running) > 0 {
		switch w.running[len(w.running)-1] {
		case "join":
			w.running[0] = "join done" // unless the callback is called
			return "join"
		case "join callback":
			return w.pick("accepted", "accepted", "accepted", "accepted", "refused", "failed", "unanswerable", "exited",
				"exited accepted")
		case "answering":
			return "answered"
		case "join done":
			return "done"
		case "event":
			switch w.IntN(7) {
			case 0:
				return "stop"
			case 1:
				return "crash"
			case 2:
				return "exited"
			case 3:
				return "lost"
			}
			w.pop()
		case "terminate":
			return "terminated"
		case "end":
			return "finished"
		}
		return ""
	}
	if len(w.queue) == 0 {
		return ""
	}
	what := w.queue[0]
	w.queue = w.queue[1:]
	switch {
	case what == "close":
		return "close"
	case what == "join":
		w.running = append(w.running, "join")
	case w.r.s.status.isMute(): // dropped, or answered as on a topic that is not joined
	case what == "leave":
		return "leave"
	default:
		w.running = append(w.running, "event")
	}
	return ""
}
