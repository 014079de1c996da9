package broker

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/google/uuid"
)

// Every node publishes small numbered probes to all nodes, behind the messages that it published before. A node that receives the
// probes of another one without a hole has missed nothing that was sent between them, as far as the path between the two is
// concerned. The rules:
//
//   - A node sends a probe after it connected, and then every interval: cfg.Ping, or nodes × perNode if that is longer. If it sent
//     messages since its last probe, or received a probe of a node that it did not know, it sends the next one after quickProbe,
//     or nodes × perNode if that is longer. All intervals are shortened by up to a quarter at random. So a node receives at most
//     about 1/perNode probes each second, whatever the size of the cluster.
//   - A hole in the numbers of another node is a gap at the receiver, if the probe before the received one was sent while the
//     receiver was connected already. The first probe of an unknown node counts in the same way, so that a node that starts during
//     a failover learns that it missed something.
//   - A node whose connection is lost after it sent messages that no acknowledged probe followed has the others report a gap, as
//     if messages had been unanswered: nobody can know whether the path to all of them still existed.
//   - A node is silent if no probe of it came for silentAfter of its intervals plus cfg.Timeout, and it did not say that it ends.
//     When more than half of the known nodes are silent, the relay says so in Health and connects anew, which is a gap. It does
//     that at most maxMoves times, each time waiting twice as long. A node that stays silent after that is presumed dead.
//   - At an engine that delivers to a node what the node published itself, a probe that does not come back within cfg.Timeout of
//     the engine's answer ends the connection.
const (
	quickProbe  = time.Second
	perNode     = 50 * time.Millisecond
	silentAfter = 3
	maxMoves    = 2

	// maxPeers bounds how many other nodes are known, and the others what one of them may claim.
	maxPeers    = 10_000
	maxInterval = 10 * time.Minute
	maxSince    = 365 * 24 * time.Hour

	// settle is how long after a change the path to other nodes counts as stable.
	settle = time.Second

	// slack is for what is compared across two nodes: a probe's way, and different clock rates.
	slack = 100 * time.Millisecond
)

var (
	errHole   = errors.New("a probe of another node was missed")
	errNoEcho = errors.New("the engine does not deliver what this node publishes")
)

// peer is another node, as known from its probes.
type peer struct {
	number   uint64        // of its last probe
	heard    time.Time     // when the last one came
	interval time.Duration // within which it sends the next one
}

// probing is the state of probes. It is guarded by probeMu, but for the fields of Run's goroutine.
type probing struct {
	peers  map[uuid.UUID]*peer
	joined time.Time // when this connection's subscriptions were answered; zero while there is none
	echoed uint64    // the number of the last own probe that came back
	change error     // what Changed was called with; nil once it was reported for the second time
	until  time.Time // when that is due
	asked  bool      // an unknown node came, or this one connected: the next probe is due soon
	moves  int       // connections given up because nodes were silent; 0 once all are heard

	// Owned by Run's goroutine.
	number   uint64    // of the last probe that was sent
	last     time.Time // when it was sent
	expected uint64    // the number of an own probe that must come back; 0: none
	answered time.Time // when the engine answered that one
	dirty    bool      // messages were sent on this connection, and no answered probe since
	jitter   float64   // in [0.75, 1], for the next interval
}

// appendProbe appends the body of a probe: its number, the milliseconds since the one before, and its interval in milliseconds.
func appendProbe(dst []byte, number uint64, since, interval time.Duration) []byte {
	dst = binary.AppendUvarint(dst, number)
	dst = binary.AppendUvarint(dst, uint64(max(0, since.Milliseconds())))
	return binary.AppendUvarint(dst, uint64(max(0, interval.Milliseconds())))
}

func parseProbe(body []byte) (number uint64, since, interval time.Duration, ok bool) {
	var v [3]uint64
	for i := range v {
		n, size := binary.Uvarint(body)
		if size <= 0 {
			return 0, 0, 0, false
		}
		v[i], body = n, body[size:]
	}
	millis := func(n uint64, most time.Duration) time.Duration {
		return time.Duration(min(n, uint64(most/time.Millisecond))) * time.Millisecond
	}
	return v[0], millis(v[1], maxSince), millis(v[2], maxInterval), len(body) == 0 && v[0] > 0
}

// receiveProbe takes a probe or the last message of another node, or an own probe that came back.
func (r *Relay) receiveProbe(e envelope) {
	number, since, interval, ok := parseProbe(e.body)
	if !ok {
		return // a later version's, or garbage
	}
	if reason := r.noteProbe(e, number, since, interval); reason != nil {
		r.gap(reason)
	}
}

// noteProbe notes that a probe came. It returns why something may have been missed.
func (r *Relay) noteProbe(e envelope, number uint64, since, interval time.Duration) (gap error) {
	r.probeMu.Lock()
	defer r.probeMu.Unlock()
	now := time.Now()
	if e.from == r.id {
		r.probe.echoed = max(r.probe.echoed, number)
		return nil
	}
	p := r.probe.peers[e.from]
	before := uint64(0)
	if p != nil {
		before = p.number
	}
	if number <= before {
		return nil // it comes late, of an earlier connection
	}
	if number > before+1 && !r.probe.joined.IsZero() && now.Sub(r.probe.joined) > since+slack {
		gap = errHole
	}
	if e.kind == kindBye {
		delete(r.probe.peers, e.from)
		return gap
	}
	if p == nil {
		if len(r.probe.peers) >= maxPeers {
			return gap
		}
		p = new(peer)
		r.probe.peers[e.from] = p
		r.probe.asked = true
		r.poke()
	}
	p.number, p.heard, p.interval = number, now, interval
	return gap
}

// changed reports a gap at once, and has settled report another one.
func (r *Relay) changed(reason error) {
	r.probeMu.Lock()
	r.probe.change, r.probe.until = reason, time.Now().Add(settle)
	r.probeMu.Unlock()
	r.gap(reason)
	r.poke()
}

// settled reports the second gap of a change when it is due. It returns how long to wait for that, or most if there is none.
func (r *Relay) settled(most time.Duration) time.Duration {
	r.probeMu.Lock()
	change, wait := r.probe.change, time.Until(r.probe.until)
	due := change != nil && wait <= 0
	if due {
		r.probe.change = nil
	}
	r.probeMu.Unlock()
	switch {
	case due:
		r.gap(change)
	case change != nil:
		return min(wait, most)
	}
	return most
}

// joinedEngine notes that a connection is ready. What nodes were silent before gets another chance.
func (r *Relay) joinedEngine() {
	r.probeMu.Lock()
	defer r.probeMu.Unlock()
	now := time.Now()
	r.probe.joined, r.probe.asked = now, true
	r.probe.expected, r.probe.echoed, r.probe.dirty = 0, 0, false
	for _, p := range r.probe.peers {
		p.heard = now
	}
}

// leftEngine notes that a connection has ended. It reports whether others may miss what was sent on it.
func (r *Relay) leftEngine() (dirty bool) {
	r.probeMu.Lock()
	defer r.probeMu.Unlock()
	r.probe.joined = time.Time{}
	return r.probe.dirty
}

// interval is the longest time between two probes.
func (r *Relay) interval(peers int) time.Duration {
	return max(r.cfg.Ping, time.Duration(peers)*perNode)
}

// untilProbe is how long to wait for the next probe.
func (r *Relay) untilProbe() time.Duration {
	r.probeMu.Lock()
	defer r.probeMu.Unlock()
	if r.probe.last.IsZero() {
		return 0
	}
	wait := r.interval(len(r.probe.peers))
	if r.probe.asked || r.probe.dirty {
		wait = min(wait, max(quickProbe, time.Duration(len(r.probe.peers))*perNode))
	}
	return time.Duration(float64(wait)*r.probe.jitter) - time.Since(r.probe.last)
}

// addProbe adds a probe to b, behind its messages.
func (r *Relay) addProbe(b *Batch, kind byte) {
	r.probeMu.Lock()
	defer r.probeMu.Unlock()
	now := time.Now()
	since := time.Duration(0)
	if !r.probe.last.IsZero() {
		since = now.Sub(r.probe.last)
	}
	r.probe.number++
	r.probe.last, r.probe.asked = now, false
	r.probe.jitter = 0.75 + rand.Float64()/4 //nolint:gosec // it spreads load
	data := appendProbe(newEnvelope(kind, r.id, 16), r.probe.number, since, r.interval(len(r.probe.peers)))
	setEpoch(data, r.epoch)
	b.Messages, b.probe = append(b.Messages, Message{r.engine.Channel(All, "all"), data}), true
}

// sentProbe notes what became of a batch.
func (r *Relay) sentProbe(b *Batch, err error) {
	r.probeMu.Lock()
	defer r.probeMu.Unlock()
	switch {
	case err == nil && b.probe:
		r.probe.dirty = false
		if r.cfg.Echo && r.probe.expected <= r.probe.echoed {
			r.probe.expected, r.probe.answered = r.probe.number, time.Now()
		}
	case b.size > 0:
		r.probe.dirty = true
	}
}

// checkProbes returns why the connection must be given up although the engine answers.
func (r *Relay) checkProbes() error {
	r.probeMu.Lock()
	defer r.probeMu.Unlock()
	p := &r.probe
	now := time.Now()
	if p.expected > p.echoed && now.Sub(p.answered) > r.cfg.Timeout {
		return errNoEcho
	}
	silent, unheard := 0, 0
	for id, other := range p.peers {
		age := now.Sub(other.heard)
		patience := silentAfter*max(other.interval, r.interval(len(p.peers))) + r.cfg.Timeout
		switch {
		case age > patience<<maxMoves:
			delete(p.peers, id)
			continue
		case age > patience<<p.moves:
			silent++
		}
		if other.heard.Equal(p.joined) {
			unheard++
		}
	}
	switch {
	case silent > 0 && 2*silent > len(p.peers) && p.moves < maxMoves:
		p.moves++
		return silentError(silent, len(p.peers))
	case unheard == 0:
		p.moves = 0
	}
	return nil
}

// silence returns an error if the connection was made because nodes were silent, and some of them still are.
func (r *Relay) silence() error {
	r.probeMu.Lock()
	defer r.probeMu.Unlock()
	if r.probe.moves == 0 {
		return nil
	}
	unheard := 0
	for _, other := range r.probe.peers {
		if other.heard.Equal(r.probe.joined) {
			unheard++
		}
	}
	if unheard == 0 {
		return nil
	}
	return silentError(unheard, len(r.probe.peers))
}

func silentError(silent, all int) error {
	return fmt.Errorf("%d of %d other nodes are not heard", silent, all)
}
