package channel

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// clientModel is a second implementation of the rules of clientStep, against which random inputs
// are checked. It is simple instead of fast, and collects the expected results of a step.
type clientModel struct {
	online bool
	phase  string // fresh, joining, joined, errored, leaving, gone: its last life has ended
	ref    int    // the last ref that was used

	attempt  int  // the number of the current join
	joinRef  int  // its ref; zero if it was not sent
	answered bool // Join's handle was answered
	tries    int  // rejoins since the last success or connection
	leave    int  // the ref of the leave, or zero
	taken    bool // another channel is leaving the topic
	again    bool // the channel joins again when no push is in flight
	needs    bool // WaitForAuth was called
	auth     string
	stale    bool // the last join was refused because the token had expired
	manual   bool // ManualRejoin
	parked   bool // the next join waits for Rejoin
	paused   bool // the join was refused because there were too many

	life   int      // its number, from 1; zero before the first Join
	next   int      // the life whose Join waits for the end of this one; zero if there is none
	leftTo int      // the last life that was left
	leaves []string // that are not answered yet
	dead   bool     // the socket is closed

	waiting []string       // buffered pushes
	sent    map[string]int // the refs of pushes in flight
	kept    map[string]bool
	now     map[string]bool // the pushes of PushNow
	timers  map[string]bool

	answers map[string]string // of this step
	sends   []string          // of this step
	shown   string            // event or drop, of this step
}

func (m *clientModel) use() int { m.ref++; return m.ref }

func (m *clientModel) send(joinRef int, event string) int {
	ref := m.use()
	if joinRef == 0 {
		joinRef = ref
	}
	m.sends = append(m.sends, fmt.Sprintf("%d %d %s", joinRef, ref, event))
	return ref
}

func (m *clientModel) answer(name, how string) {
	if old, ok := m.answers[name]; ok {
		how = old + "+" + how
	}
	m.answers[name] = how
	delete(m.timers, name)
}

// newJoin starts a join.
func (m *clientModel) newJoin() {
	m.phase, m.joinRef, m.again = "joining", 0, false
	m.parked, m.paused = m.manual && !m.online, false
	m.attempt++
	m.setJoinTimer()
	delete(m.timers, "rejoin")
}

// held reports whether joins wait for the authentication.
func (m *clientModel) held() bool {
	return m.auth != "granted" && (m.needs || m.stale && m.auth == "expired")
}

// waits reports whether the join waits for anything but its turn.
func (m *clientModel) waits() bool { return !m.online || m.taken || m.held() || m.parked || m.paused }

func (m *clientModel) setJoinTimer() {
	if delete(m.timers, "join"); !m.held() {
		m.timers["join"] = true
	}
}

// fault makes the channel errored.
func (m *clientModel) fault() {
	m.phase, m.again, m.paused = "errored", false, false
	if m.answered {
		delete(m.timers, "join")
	}
	delete(m.timers, "rejoin")
	switch {
	case m.online && m.manual:
		m.parked = true
	case m.online:
		m.timers["rejoin"] = true
	}
}

// joinOf returns the name of the Join of a life.
func joinOf(life int) string {
	if life == 1 {
		return "join"
	}
	return fmt.Sprintf("join%d", life)
}

func (m *clientModel) joinAnswered(how string) {
	m.answer(joinOf(m.life), how)
	m.answered = true
	delete(m.timers, "join")
}

// loseSent fails the pushes in flight.
func (m *clientModel) loseSent(keep bool, how string) {
	var back []string
	for _, name := range m.onWire() {
		if keep && m.kept[name] && m.now[name] {
			m.answer(name, "offline")
			continue
		}
		if keep && m.kept[name] {
			back = append(back, name)
			continue
		}
		m.answer(name, how)
	}
	m.sent, m.kept = map[string]int{}, map[string]bool{}
	m.waiting = append(back, m.waiting...)
}

func (m *clientModel) onWire() []string {
	names := slices.Collect(maps.Keys(m.sent))
	slices.SortFunc(names, func(a, b string) int { return m.sent[a] - m.sent[b] })
	return names
}

// gone ends the life, and begins the next one.
func (m *clientModel) gone(leaves string) {
	keep := m.phase == "leaving" && m.next != 0 && !m.dead // the pushes of the next life
	m.phase, m.joinRef, m.again, m.paused = "gone", 0, false, false
	for _, name := range m.onWire() {
		if m.kept[name] && m.now[name] {
			m.answer(name, "offline")
		} else if m.kept[name] {
			m.answer(name, "closed")
		} else {
			m.answer(name, "lost")
		}
	}
	m.sent, m.kept = map[string]int{}, map[string]bool{}
	m.failJoin()
	for _, name := range m.leaves {
		m.answer(name, leaves)
	}
	m.leaves = nil
	m.timers = map[string]bool{}
	if !keep {
		m.dropWaiting()
	}
	for _, name := range m.waiting {
		m.timers[name] = true
	}
	next := m.next
	m.next = 0
	switch {
	case next != 0 && !m.dead:
		m.live(next)
	case next != 0:
		m.answer(joinOf(next), "closed")
	}
}

// live begins a life.
func (m *clientModel) live(life int) {
	m.life, m.answered, m.stale, m.tries = life, false, false, 0
	m.newJoin()
}

func (m *clientModel) isLive() bool { return m.phase != "fresh" && m.phase != "gone" }

func (m *clientModel) dropWaiting() {
	for _, name := range m.waiting {
		m.answer(name, "closed")
	}
	m.waiting = nil
}

func (m *clientModel) failJoin() {
	if !m.answered {
		m.answer(joinOf(m.life), "closed")
		m.answered = true
	}
}

func (m *clientModel) joinCalled(life int) {
	switch {
	case m.dead, life <= m.leftTo:
		m.answer(joinOf(life), "closed")
	case m.isLive():
		m.next = life
	default:
		m.live(life)
	}
}

func (m *clientModel) leaveCalled(name string, life int) {
	m.leftTo = max(m.leftTo, life)
	if m.next > 0 && m.next <= life {
		m.answer(joinOf(m.next), "closed")
		m.next = 0
		m.dropWaiting()
	}
	switch {
	case !m.isLive() || life < m.life:
		m.answer(name, "ok")
		return
	case m.phase == "leaving":
		m.leaves = append(m.leaves, name)
		return
	}
	m.leaves = []string{name}
	if !m.online || m.joinRef == 0 || m.phase == "errored" {
		m.gone("ok")
		return
	}
	m.phase = "leaving"
	delete(m.timers, "join")
	m.failJoin()
	m.dropWaiting()
	m.leave = m.send(m.joinRef, "phx_leave")
	m.timers["leave"] = true
}

func (m *clientModel) step(line string) {
	m.answers, m.sends, m.shown = map[string]string{}, nil, ""
	f := strings.Fields(line)
	arg := ""
	if len(f) > 1 {
		arg = f[1]
	}
	switch {
	case strings.HasPrefix(f[0], "join"):
		m.joinCalled(int(rigLife(f[0])))
		return
	case strings.HasPrefix(f[0], "leave"):
		m.leaveCalled(f[0], int(rigLife(f[0])))
		return
	}
	switch f[0] {
	case "open":
		m.online, m.tries = true, 0
		if m.phase == "errored" && !m.parked {
			m.newJoin()
		}
	case "closed":
		m.parked = m.parked || m.manual && m.online
		m.online = false
		switch m.phase {
		case "leaving":
			m.gone("ok")
		case "joining", "joined":
			m.loseSent(true, "lost")
			m.fault()
			m.joinRef = 0
		case "errored":
			delete(m.timers, "rejoin")
		}
	case "taken":
		m.taken = true
	case "free":
		m.taken = false
		if m.phase == "joining" {
			m.setJoinTimer()
		}
	case "needs":
		m.needs = true
	case "manual":
		m.manual = true
	case "rejoin":
		m.parked = false
		if m.phase == "errored" && m.online {
			m.tries++
			m.newJoin()
		}
	case "auth":
		m.authChanged(arg)
	case "params":
		if m.phase != "joining" || m.waits() || m.joinRef != 0 || arg != strconv.Itoa(m.attempt) {
			return
		}
		if len(f) > 2 {
			m.joinAnswered("cause")
			m.fault()
			return
		}
		m.joinRef = m.send(0, "phx_join")
	case "push":
		switch m.phase {
		case "fresh":
			m.answer(arg, "not joined")
		case "gone":
			m.answer(arg, "closed")
		case "leaving":
			if m.next == 0 {
				m.answer(arg, "closed")
				return
			}
			m.waiting = append(m.waiting, arg)
			m.timers[arg] = true
		case "joined":
			m.timers[arg] = true
			if m.again {
				m.waiting = append(m.waiting, arg)
			} else {
				m.sent[arg] = m.send(m.joinRef, arg)
			}
		default:
			m.waiting = append(m.waiting, arg)
			m.timers[arg] = true
		}
	case "now":
		m.now[arg] = true
		if m.phase != "joined" || m.again || len(f) > 2 {
			m.answer(arg, "offline")
			return
		}
		m.timers[arg] = true
		m.sent[arg] = m.send(m.joinRef, arg)
	case "again":
		m.again = m.phase == "joined"
	case "cancel":
		m.giveUp(arg, "canceled")
	case "due":
		m.due(arg)
	case "unsent":
		m.kept[arg] = true
	case "refused":
		m.refused(arg)
	case "giveup":
		if m.phase == "errored" {
			m.gone("closed")
		}
	case "end":
		m.dead = true
		if m.isLive() {
			m.gone("closed")
		}
	case "msg":
		m.message(f[1], f[2], f[3], f[len(f)-1])
	}
	if m.again && m.phase == "joined" && len(m.sent) == 0 {
		m.newJoin()
	}
}

func (m *clientModel) authChanged(to string) {
	held, wanted := m.held(), m.needs || m.stale
	m.auth = to
	if to != "expired" {
		m.stale = false
	}
	switch {
	case m.phase == "joining" && m.joinRef == 0:
		if held != m.held() {
			m.setJoinTimer()
		}
	case m.phase == "errored" && m.online && to == "granted" && wanted && !m.parked:
		m.newJoin()
	}
}

// giveUp answers a push that is buffered or in flight.
func (m *clientModel) giveUp(name, how string) {
	_, onWire := m.sent[name]
	i := slices.Index(m.waiting, name)
	if onWire {
		delete(m.sent, name)
		delete(m.kept, name)
	}
	if i >= 0 {
		m.waiting = slices.Delete(slices.Clone(m.waiting), i, i+1)
	}
	if onWire || i >= 0 {
		m.answer(name, how)
	}
}

func (m *clientModel) due(timer string) {
	delete(m.timers, timer)
	switch timer {
	case "join":
		switch m.phase {
		case "joining":
			if m.online && m.joinRef != 0 {
				m.send(m.joinRef, "phx_leave")
			}
			m.joinRef = 0
			m.joinAnswered("timeout")
			m.fault()
		case "errored":
			m.joinAnswered("timeout")
		}
	case "rejoin":
		if m.paused {
			m.paused = false
			return
		}
		m.tries++
		m.newJoin()
	case "leave":
		m.gone("timeout")
	default:
		m.giveUp(timer, "timeout")
	}
}

func (m *clientModel) refused(ref string) {
	for name, r := range m.sent {
		if strconv.Itoa(r) == ref {
			m.giveUp(name, "payload")
			return
		}
	}
	if m.phase == "joining" && m.joinRef != 0 && strconv.Itoa(m.joinRef) == ref {
		m.joinRef = 0
		m.joinAnswered("payload")
		m.fault()
	}
}

// wireStatus returns the status that a reply of clientRig has on the wire.
func wireStatus(s string) string {
	if s == "expired" || s == "busy" {
		return "error"
	}
	return s
}

func (m *clientModel) message(joinRef, ref, event, status string) {
	if m.phase == "gone" {
		return
	}
	if m.taken {
		m.shown = "drop"
		return
	}
	names := joinRef
	if null := names == "-" || names == "''"; null && (event == "phx_close" || event == "phx_error") {
		names = ref
	}
	if names != "-" && names != "''" && (m.joinRef == 0 || names != strconv.Itoa(m.joinRef)) {
		m.shown = "drop"
		return
	}
	switch event {
	case "phx_reply":
		for name, r := range m.sent {
			if strconv.Itoa(r) == ref {
				delete(m.sent, name)
				delete(m.kept, name)
				m.answer(name, wireStatus(status))
				return
			}
		}
		switch {
		case m.phase == "joining" && m.joinRef != 0 && ref == strconv.Itoa(m.joinRef):
			if status == "busy" {
				m.joinRef, m.paused = 0, true
				m.timers["rejoin"] = true
				return
			}
			m.joinAnswered(wireStatus(status))
			if status != "ok" {
				m.joinRef, m.stale = 0, status == "expired"
				m.fault()
				return
			}
			m.phase, m.tries = "joined", 0
			for _, name := range m.waiting {
				m.sent[name] = m.send(m.joinRef, name)
				m.timers[name] = true
			}
			m.waiting = nil
		case m.phase == "leaving" && ref == strconv.Itoa(m.leave):
			m.gone(wireStatus(status))
		default:
			m.shown = "drop"
		}
	case "phx_close":
		if m.needs && (m.auth == "missing" || status == "logout") {
			m.message(joinRef, ref, "phx_error", "")
			return
		}
		m.gone("ok")
	case "phx_error":
		switch m.phase {
		case "joining":
			m.joinRef = 0
			m.fault()
		case "joined":
			m.loseSent(false, "lost")
			m.fault()
		case "leaving":
			m.gone("ok")
		}
	default:
		m.shown = "event"
		if m.phase == "leaving" || m.phase == "fresh" {
			m.shown = "drop"
		}
	}
}
