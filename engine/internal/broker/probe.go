package broker

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/google/uuid"
)

// Every node publishes small numbered probes to all nodes, after the messages that it published
// before. A node that receives all probes of another node has received all messages that were sent
// between them, as far as the path between the two nodes is concerned. The rules:
//
//   - A node sends a probe after it connected, and then every interval: cfg.Ping, or nodes ×
//     perNode if that is longer. If it has sent messages since its last probe, or received a probe
//     of an unknown node, it sends the next one after quickProbe, or nodes × perNode if that is
//     longer. All intervals are shortened by up to a quarter at random. So a node receives at most
//     about 1/perNode probes each second, whatever the size of the cluster.
//   - A hole in the numbers of another node is a gap at the receiver, provided that the receiver
//     was already connected when the probe before the received one was sent. The first probe of an
//     unknown node counts in the same way, so a node that starts during a failover learns that it
//     missed something.
//   - If a node loses its connection after it sent messages that no acknowledged probe followed,
//     the other nodes report a gap, as if the messages had not been acknowledged. Nobody can know
//     whether the path to all nodes still existed.
//   - A node is silent if none of its probes arrived for silentAfter of its intervals plus
//     cfg.Timeout, unless it announced its end. When more than half of the known nodes are silent,
//     the broker reports that in Health and reconnects, which is a gap. It reconnects at most
//     maxMoves times, and waits twice as long each time. A node that is still silent after that is
//     presumed dead.
//   - If the engine delivers to a node what the node itself published, a probe that does not come
//     back within cfg.Timeout after the engine's answer ends the connection.
const (
	quickProbe  = time.Second
	perNode     = 50 * time.Millisecond
	silentAfter = 3
	maxMoves    = 2

	// maxPeers limits the number of known nodes. maxInterval and maxSince limit what a probe may
	// contain.
	maxPeers    = 10_000
	maxInterval = 10 * time.Minute
	maxSince    = 365 * 24 * time.Hour

	// settle is the time after a change of the path to other nodes until it counts as stable.
	settle = time.Second

	// slack allows for a probe's travel time, and for clocks of two nodes that run at different rates.
	slack = 100 * time.Millisecond
)

var (
	errHole   = errors.New("a probe of another node was missed")
	errNoEcho = errors.New("the engine does not deliver this node's own messages")
)

// peer is another node, as known from its probes.
type peer struct {
	number   uint64        // of its last probe
	lastSeen time.Time     // when the last one arrived
	interval time.Duration // within which it sends the next one
}

// probing is the state of probes. It is guarded by probeMu, except for the fields of Run's
// goroutine.
type probing struct {
	peers  map[uuid.UUID]*peer
	joined time.Time // when the first subscriptions were acknowledged; zero while not connected
	echoed uint64    // the number of the last own probe that came back
	change error     // the reason of a changed path until its second report, otherwise nil
	until  time.Time // when the second report is due
	asked  bool      // an unknown node appeared, or this one connected: the next probe is due soon
	moves  int       // connections ended because nodes were silent; reset when none is silent

	// These fields are owned by the goroutine of Run.
	number   uint64    // of the last probe that was sent
	last     time.Time // when it was sent
	expected uint64    // the number of an own probe that must come back, or 0
	answered time.Time // when the engine acknowledged that probe
	dirty    bool      // messages were sent on this connection that no acknowledged probe has followed
	jitter   float64   // in [0.75, 1], for the next interval
}

// appendProbe appends the body of a probe: its number, the milliseconds since the previous probe,
// and the interval in milliseconds.
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

// receiveProbe handles a probe of another node, or an own probe that came back.
func (b *Broker) receiveProbe(e envelope) {
	number, since, interval, ok := parseProbe(e.body)
	if !ok {
		return // malformed, or of a later version
	}
	if reason := b.noteProbe(e, number, since, interval); reason != nil {
		b.gap(reason)
	}
}

// noteProbe records a probe. If messages may have been missed, it returns the reason.
func (b *Broker) noteProbe(e envelope, number uint64, since, interval time.Duration) (gap error) {
	b.probeMu.Lock()
	defer b.probeMu.Unlock()
	now := time.Now()
	if e.from == b.id {
		b.probe.echoed = max(b.probe.echoed, number)
		return nil
	}
	p := b.probe.peers[e.from]
	before := uint64(0)
	if p != nil {
		before = p.number
	}
	if number <= before {
		return nil // a delayed probe of an earlier connection
	}
	if number > before+1 && !b.probe.joined.IsZero() && now.Sub(b.probe.joined) > since+slack {
		gap = errHole
	}
	if e.kind == kindLast {
		delete(b.probe.peers, e.from)
		return gap
	}
	if p == nil {
		if len(b.probe.peers) >= maxPeers {
			return gap
		}
		p = new(peer)
		b.probe.peers[e.from] = p
		b.probe.asked = true
		b.signal()
	}
	p.number, p.lastSeen, p.interval = number, now, interval
	return gap
}

// pathChanged reports a gap immediately, and lets reportSettled report another one.
func (b *Broker) pathChanged(reason error) {
	b.probeMu.Lock()
	b.probe.change, b.probe.until = reason, time.Now().Add(settle)
	b.probeMu.Unlock()
	b.gap(reason)
	b.signal()
}

// reportSettled reports the second gap of a changed path when it is due. It returns the time until
// it is due, or most if that is shorter or nothing is due.
func (b *Broker) reportSettled(most time.Duration) time.Duration {
	b.probeMu.Lock()
	change, wait := b.probe.change, time.Until(b.probe.until)
	due := change != nil && wait <= 0
	if due {
		b.probe.change = nil
	}
	b.probeMu.Unlock()
	switch {
	case due:
		b.gap(change)
	case change != nil:
		return min(wait, most)
	}
	return most
}

// probesConnected records that a connection is ready. Nodes that were silent get another chance.
func (b *Broker) probesConnected() {
	b.probeMu.Lock()
	defer b.probeMu.Unlock()
	now := time.Now()
	b.probe.joined, b.probe.asked = now, true
	b.probe.expected, b.probe.echoed, b.probe.dirty = 0, 0, false
	for _, p := range b.probe.peers {
		p.lastSeen = now
	}
}

// probesDisconnected records that a connection has ended. It reports whether other nodes may have
// missed messages that were sent on it.
func (b *Broker) probesDisconnected() (dirty bool) {
	b.probeMu.Lock()
	defer b.probeMu.Unlock()
	b.probe.joined = time.Time{}
	return b.probe.dirty
}

// interval returns the longest time between two probes.
func (b *Broker) interval(peers int) time.Duration {
	return max(b.cfg.Ping, time.Duration(peers)*perNode)
}

// untilProbe returns the time until the next probe is due.
func (b *Broker) untilProbe() time.Duration {
	b.probeMu.Lock()
	defer b.probeMu.Unlock()
	if b.probe.last.IsZero() {
		return 0
	}
	wait := b.interval(len(b.probe.peers))
	if b.probe.asked || b.probe.dirty {
		wait = min(wait, max(quickProbe, time.Duration(len(b.probe.peers))*perNode))
	}
	return time.Duration(float64(wait)*b.probe.jitter) - time.Since(b.probe.last)
}

// addProbe adds a probe to the batch, after its messages.
func (b *Broker) addProbe(batch *Batch, kind byte) {
	b.probeMu.Lock()
	defer b.probeMu.Unlock()
	now := time.Now()
	since := time.Duration(0)
	if !b.probe.last.IsZero() {
		since = now.Sub(b.probe.last)
	}
	b.probe.number++
	b.probe.last, b.probe.asked = now, false
	b.probe.jitter = 0.75 + rand.Float64()/4 //nolint:gosec // it spreads load
	data := appendProbe(newEnvelope(kind, b.id, 16), b.probe.number, since, b.interval(len(b.probe.peers)))
	setEpoch(data, b.epoch)
	batch.Messages = append(batch.Messages, Message{b.backend.Channel(All, "all"), data})
	batch.probe = true
}

// recordProbe records the result of sending a batch.
func (b *Broker) recordProbe(batch *Batch, err error) {
	b.probeMu.Lock()
	defer b.probeMu.Unlock()
	switch {
	case err == nil && batch.probe:
		b.probe.dirty = false
		if b.cfg.Echo && b.probe.expected <= b.probe.echoed {
			b.probe.expected, b.probe.answered = b.probe.number, time.Now()
		}
	case batch.size > 0:
		b.probe.dirty = true
	}
}

// checkProbes returns an error if the connection must be ended although the engine answers.
func (b *Broker) checkProbes() error {
	b.probeMu.Lock()
	defer b.probeMu.Unlock()
	p := &b.probe
	now := time.Now()
	if p.expected > p.echoed && now.Sub(p.answered) > b.cfg.Timeout {
		return errNoEcho
	}
	silent, missing := 0, 0
	for id, other := range p.peers {
		age := now.Sub(other.lastSeen)
		patience := silentAfter*max(other.interval, b.interval(len(p.peers))) + b.cfg.Timeout
		switch {
		case age > patience<<maxMoves:
			delete(p.peers, id)
			continue
		case age > patience<<p.moves:
			silent++
		}
		if other.lastSeen.Equal(p.joined) {
			missing++
		}
	}
	switch {
	case silent > 0 && 2*silent > len(p.peers) && p.moves < maxMoves:
		p.moves++
		return silentError(silent, len(p.peers))
	case missing == 0:
		p.moves = 0
	}
	return nil
}

// silence returns an error if this connection was made because nodes were silent, and some still
// are.
func (b *Broker) silence() error {
	b.probeMu.Lock()
	defer b.probeMu.Unlock()
	if b.probe.moves == 0 {
		return nil
	}
	missing := 0
	for _, other := range b.probe.peers {
		if other.lastSeen.Equal(b.probe.joined) {
			missing++
		}
	}
	if missing == 0 {
		return nil
	}
	return silentError(missing, len(b.probe.peers))
}

func silentError(silent, all int) error {
	return fmt.Errorf("%d of %d other nodes are silent", silent, all)
}
