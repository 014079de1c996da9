package channel

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
)

// clientWorld generates random inputs that are possible in the state of the model.
type clientWorld struct {
	*rand.Rand
	m      *clientModel
	online bool
	joined bool
	pushes int

	// The state of the handle, which Client.Join and Client.Leave change.
	lives  int
	live   bool
	called []string // the names of joins and leaves
	begun  int      // the lives that the rules have begun

	held      []string // joins and leaves that concurrent calls overtake
	reordered bool
	isLate    bool // no more calls are held
}

// call returns the line of a Join or Leave, now or later.
func (w *clientWorld) call(name string) string {
	w.called = append(w.called, name)
	if w.isLate || len(w.held) == 3 || w.IntN(10) > 0 {
		return name
	}
	w.held = append(w.held, name)
	w.reordered = true
	return w.next()
}

// release returns a line that was held.
func (w *clientWorld) release(i int) string {
	line := w.held[i]
	w.held = append(w.held[:i:i], w.held[i+1:]...)
	w.joined = w.joined || strings.HasPrefix(line, "join")
	return line
}

// join returns the line of a Join, if the handle is not live.
func (w *clientWorld) join() string {
	w.lives++
	w.live = true
	return w.call(joinOf(w.lives))
}

func (w *clientWorld) leave() string {
	w.live = false
	return w.call(fmt.Sprintf("leave%d%s", w.lives, strings.Repeat("x", len(w.called))))
}

func (w *clientWorld) pick(list ...string) string { return list[w.IntN(len(list))] }

// aRef returns a ref that may be known or unknown.
func (w *clientWorld) aRef() string {
	switch w.IntN(6) {
	case 0:
		return w.pick("-", "''", "x", "0", "007", "99999")
	case 1:
		return strconv.Itoa(w.IntN(w.m.ref+2) + 1)
	default:
		if names := w.m.onWire(); len(names) > 0 && w.IntN(3) > 0 {
			return strconv.Itoa(w.m.sent[names[w.IntN(len(names))]])
		}
		if w.m.phase == "leaving" && w.IntN(2) == 0 {
			return strconv.Itoa(w.m.leave)
		}
		return strconv.Itoa(max(w.m.joinRef, 1))
	}
}

// aJoinRef returns a join_ref, mostly that of the current join.
func (w *clientWorld) aJoinRef() string {
	switch w.IntN(8) {
	case 0:
		return w.aRef()
	case 1, 2:
		return w.pick("-", "''")
	}
	return strconv.Itoa(max(w.m.joinRef, 1))
}

func (w *clientWorld) next() string {
	if w.live && w.m.phase == "gone" && len(w.held) == 0 {
		w.live = false
	}
	for {
		if len(w.held) > 0 && w.IntN(4) == 0 {
			return w.release(w.IntN(len(w.held)))
		}
		switch w.IntN(26) {
		case 0:
			w.online = !w.online
			if w.online {
				return "open"
			}
			return "closed"
		case 1:
			if !w.joined && w.m.phase == "fresh" {
				if !w.m.taken && w.IntN(3) == 0 {
					return "taken"
				}
				if !w.m.needs && w.IntN(3) == 0 {
					return "needs"
				}
				if !w.m.manual && w.IntN(3) == 0 {
					return "manual"
				}
				w.joined = true
				w.lives, w.live, w.called = 1, true, append(w.called, "join")
				return "join"
			}
			if w.joined && w.m.taken {
				return "free"
			}
		case 2, 3, 4:
			if w.m.phase == "joining" && w.online {
				line := fmt.Sprintf("params %d", max(w.m.attempt-w.IntN(6)/5, 1))
				if w.IntN(8) == 0 {
					line += " error"
				}
				return line
			}
		case 5, 6, 7:
			w.pushes++
			switch w.IntN(8) {
			case 0:
				return fmt.Sprintf("now p%d", w.pushes)
			case 1:
				return fmt.Sprintf("now p%d congested", w.pushes)
			}
			return fmt.Sprintf("push p%d", w.pushes)
		case 8:
			if w.pushes > 0 {
				return fmt.Sprintf("cancel p%d", w.IntN(w.pushes)+1)
			}
		case 9:
			if w.joined && w.live && w.IntN(6) == 0 || w.IntN(60) == 0 {
				return w.leave()
			}
			if w.joined && !w.live && w.IntN(2) == 0 {
				return w.join()
			}
		case 10, 11:
			if timers := slices.Sorted(maps.Keys(w.m.timers)); len(timers) > 0 {
				return "due " + timers[w.IntN(len(timers))]
			}
		case 12:
			if names := w.m.onWire(); len(names) > 0 {
				return "unsent " + names[w.IntN(len(names))]
			}
		case 13:
			if w.joined && w.IntN(3) == 0 {
				return "refused " + strconv.Itoa(w.IntN(w.m.ref+1)+1)
			}
		case 14:
			if w.joined && w.IntN(10) == 0 {
				return w.pick("giveup", "giveup", "giveup", "end")
			}
		case 15, 16, 17, 18:
			if w.joined {
				status := w.pick("ok", "ok", "ok", "error", "expired", "busy", "maybe")
				return fmt.Sprintf("msg %s %s phx_reply %s", w.aJoinRef(), w.aRef(), status)
			}
		case 19:
			if w.joined && w.IntN(2) == 0 {
				ref := w.aJoinRef()
				event := w.pick("phx_error", "phx_error", "phx_error", "phx_close", "phx_close logout", "phx_close logout")
				return fmt.Sprintf("msg %s %s %s", ref, w.pick(ref, ref, "-"), event)
			}
		case 20:
			if w.joined && w.IntN(2) == 0 {
				return "again"
			}
		case 23:
			if w.joined && w.IntN(2) == 0 {
				return "rejoin"
			}
		case 21, 22:
			if w.joined { // without a connection, the socket is pending
				states := []string{"pending"}
				if w.online {
					states = []string{"granted", "granted", "missing", "expired", "pending"}
				}
				return "auth " + w.pick(states...)
			}
		default:
			if w.joined {
				return fmt.Sprintf("msg %s - said", w.aJoinRef())
			}
		}
	}
}
