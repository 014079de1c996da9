package willcheck

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"
)

// Limits are the times of the cluster.
type Limits struct {
	Lease time.Duration // of a node
	Poll  time.Duration // the longest time between two searches for wills of other nodes
	Hold  time.Duration // of a claim
	Slack time.Duration // for everything else
	// Recorded reports whether what is broadcast on a topic is recorded, so that every observer
	// receives it, once. Nil means that no topic is.
	Recorded func(topic string) bool
	// Observers are the names of those that receive everything that is recorded.
	Observers []string
}

// Rule is one of the rules that a history must keep.
type Rule string

const (
	// Runs: a will whose connection has ended, and whose client never came back, runs in time.
	Runs Rule = "runs"
	// Fenced: no will runs once a newer connection of its client has joined the topic.
	Fenced Rule = "fenced"
	// Deleted: no will runs once its client was told that it is deleted.
	Deleted Rule = "deleted"
	// Early: no will runs before its connection has ended and its time has passed, while its node
	// has its lease.
	Early Rule = "early"
	// Once: an observer receives a recorded will once, at most.
	Once Rule = "once"
	// Arrived: a client whose join was answered has arrived.
	Arrived Rule = "arrived"
	// Stored: a will whose client was told that it is set is in the store.
	Stored Rule = "stored"
	// Known: only wills that were set run.
	Known Rule = "known"
)

// Violation describes where a history breaks a rule.
type Violation struct {
	Rule Rule
	Text string
}

func (v Violation) String() string { return string(v.Rule) + ": " + v.Text }

// Summary counts what a history has, so that a test notices if it tests nothing.
type Summary struct {
	Set, Ran   int // wills that the store had, and those that ran
	Obliged    int // wills that had to run
	Orphaned   int // those of them whose connection ended by the end of its node
	Superseded int // wills of clients that came back
	Dropped    int // wills that were deleted
	Kills      int // of nodes
}

// record is what is known of a will.
type record struct {
	id, connection, subject, client, topic, node string

	order uint64
	after time.Duration
	began int64 // when it was about to be stored, or zero
	set   int64 // when the store had it, or far
	acked bool
	ran   []int64
	got   map[string]int // by observer
}

// connection is what is known of a connection.
type connection struct {
	order  uint64
	ending int64 // when its client began to end it, at the earliest; or far
	ended  int64 // when it had ended at the latest; or far
}

const far = math.MaxInt64

// clientTopic names a client on a topic.
type clientTopic struct{ subject, client, topic string }

// lag is how much later than its client a node may begin to handle a message.
const lag = time.Second

type checker struct {
	limits      Limits
	events      []Event // by time
	wills       map[string]*record
	marks       map[string]string // the IDs of wills
	connections map[string]*connection
	arrivals    map[clientTopic][]Event
	joins       map[clientTopic][]Event
	killed      map[string]int64 // by node
	renewed     map[string][]int64
	finished    int64
	violations  []Violation
	summary     Summary
}

// Check returns every violation of the rules.
func Check(events []Event, limits Limits) ([]Violation, Summary) {
	c := &checker{
		limits: limits, events: slices.Clone(events),
		wills: map[string]*record{}, marks: map[string]string{}, connections: map[string]*connection{},
		arrivals: map[clientTopic][]Event{}, joins: map[clientTopic][]Event{},
		killed: map[string]int64{}, renewed: map[string][]int64{}, finished: far,
	}
	slices.SortStableFunc(c.events, func(a, b Event) int { return cmp.Compare(a.At, b.At) })
	c.read()
	c.readEnds()
	for _, id := range sortedKeys(c.wills) {
		w := c.wills[id]
		c.checkTime(w)
		c.checkFenced(w)
		c.checkDeleted(w)
		c.checkRuns(w)
		c.checkReceived(w)
	}
	c.checkArrived()
	return c.violations, c.summary
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func (c *checker) fail(rule Rule, format string, args ...any) {
	c.violations = append(c.violations, Violation{rule, fmt.Sprintf(format, args...)})
}

// at formats a time, from the first event on.
func (c *checker) at(t int64) string { return fmt.Sprintf("%.3f s", float64(t-c.events[0].At)/1e9) }

// will returns the record of a will.
func (c *checker) will(id string) *record {
	w := c.wills[id]
	if w == nil {
		w = &record{id: id, set: far, got: map[string]int{}}
		c.wills[id] = w
	}
	return w
}

// connection returns what is known of a connection.
func (c *checker) connection(id string) *connection {
	k := c.connections[id]
	if k == nil {
		k = &connection{ending: far, ended: far}
		c.connections[id] = k
	}
	return k
}

// read collects what the events say of wills, connections and nodes.
func (c *checker) read() {
	for _, e := range c.events {
		name := clientTopic{e.Subject, e.Client, e.Topic}
		switch e.Kind {
		case Renewed:
			c.renewed[e.Node] = append(c.renewed[e.Node], e.At)
		case Arriving:
			c.arrivals[name] = append(c.arrivals[name], e)
			c.connection(e.Connection).order = e.Order
		case Joined:
			c.joins[name] = append(c.joins[name], e)
		case Setting:
			w := c.will(e.Will)
			c.marks[e.Mark] = e.Will
			if w.began == 0 {
				w.connection, w.subject, w.client, w.topic, w.node = e.Connection, e.Subject, e.Client, e.Topic, e.Node
				w.order, w.after, w.began = e.Order, e.After, e.At
			}
			c.connection(e.Connection).order = e.Order
		case Set:
			w := c.will(e.Will)
			w.set = min(w.set, e.At)
		case Acked:
			c.will(e.Will).acked = true
		case Ran:
			w := c.will(e.Will)
			w.ran = append(w.ran, e.At)
		case Received:
			id, known := c.marks[e.Mark]
			if !known {
				c.fail(Known, "%s has received will %q, which was never set", e.By, e.Mark)
				continue
			}
			c.will(id).got[e.By]++
		case Killed:
			c.killed[e.Node] = e.At
			c.summary.Kills++
		case Finished:
			c.finished = e.At
		case Ending, Ended, Gone, Dropping, Dropped, Broken, Mended:
		}
	}
}

// readEnds finds out when the connections that have set wills ended.
func (c *checker) readEnds() {
	clients := map[string]map[string]bool{} // the connections of each client
	first := map[string]int64{}             // when something was known of a connection
	note := func(e *Event) {
		if e.Connection == "" || e.Client == "" {
			return
		}
		if clients[e.Client] == nil {
			clients[e.Client] = map[string]bool{}
		}
		clients[e.Client][e.Connection] = true
		if _, ok := first[e.Connection]; !ok {
			first[e.Connection] = e.At
		}
	}
	for i := range c.events {
		note(&c.events[i])
	}
	for _, e := range c.events {
		var of []string
		switch {
		case e.Kind != Ending && e.Kind != Ended && e.Kind != Gone:
			continue
		case e.Connection != "":
			of = []string{e.Connection}
		default: // one of the client's, which does not know which
			for id := range clients[e.Client] {
				if e.Kind == Gone || first[id] <= e.At+int64(lag) {
					of = append(of, id)
				}
			}
		}
		for _, id := range of {
			k := c.connection(id)
			if e.Kind == Ending && first[id] <= e.At+int64(lag) {
				k.ending = min(k.ending, max(e.At, first[id]-int64(lag)))
			}
			if e.Kind != Ending {
				k.ended = min(k.ended, e.At)
			}
		}
	}
	for _, w := range c.wills {
		if at, ok := c.killed[w.node]; ok {
			k := c.connection(w.connection)
			k.ending, k.ended = min(k.ending, at), min(k.ended, at)
		}
	}
}

// checkTime checks Known, Stored and Early.
func (c *checker) checkTime(w *record) {
	if len(w.ran) > 0 && w.began == 0 {
		c.fail(Known, "will %s was broadcast and never set", w.id)
		return
	}
	if w.acked && w.set == far {
		c.fail(Stored, "will %s was acknowledged and is not in the store", w.id)
	}
	if w.set != far {
		c.summary.Set++
	}
	if len(w.ran) > 0 {
		c.summary.Ran++
	}
	end := c.connection(w.connection).ending
	const rounding = 5 * time.Millisecond
	for _, at := range w.ran {
		if end != far && at >= end+int64(w.after-rounding) {
			continue
		}
		lease := int64(math.MinInt64)
		for _, renewed := range c.renewed[w.node] {
			if renewed <= at {
				lease = renewed + int64(c.limits.Lease)
			}
		}
		if at < lease {
			c.fail(Early, "will %s of connection %s ran at %s, which ended at %s and was %v long", w.id, w.connection,
				c.at(at), c.at(end), w.after)
		}
	}
}

// isNewer reports whether a connection that joined in e is newer than that of a will.
func (c *checker) isNewer(e *Event, w *record) bool {
	if e.Connection == w.connection {
		return false
	}
	order := c.connection(e.Connection).order
	if order != 0 && w.order != 0 {
		return order > w.order
	}
	return e.At > w.began
}

func (c *checker) checkFenced(w *record) {
	for _, e := range c.joins[clientTopic{w.subject, w.client, w.topic}] {
		if !c.isNewer(&e, w) {
			continue
		}
		for _, at := range w.ran {
			if at > e.At {
				c.fail(Fenced, "will %s of connection %s (%d) ran at %s, after connection %s (%d) had joined %s at %s", w.id,
					w.connection, w.order, c.at(at), e.Connection, c.connection(e.Connection).order, w.topic, c.at(e.At))
			}
		}
	}
}

// checkDeleted allows that a node is killed, or the store fails, before the deletion is stored. But
// a deletion of one will is answered when it is stored.
func (c *checker) checkDeleted(w *record) {
	for _, e := range c.events {
		if e.Kind != Dropped || !e.selects(w) || e.At < w.began {
			continue
		}
		c.summary.Dropped++
		if e.Will == "" && c.isDisturbed(w.node, e.At-int64(lag), e.At+int64(lag)) {
			continue
		}
		for _, at := range w.ran {
			if at > e.At {
				c.fail(Deleted, "will %s ran at %s, and was deleted at %s", w.id, c.at(at), c.at(e.At))
			}
		}
		return
	}
}

// isDisturbed reports whether a node was killed or the store failed in a time.
func (c *checker) isDisturbed(node string, from, to int64) bool {
	if at, ok := c.killed[node]; ok && at >= from && at <= to {
		return true
	}
	broken := int64(far)
	for _, e := range c.events {
		switch e.Kind {
		case Broken:
			broken = e.At
		case Mended:
			if broken <= to && e.At >= from {
				return true
			}
			broken = far
		default:
		}
	}
	return broken <= to
}

func (c *checker) checkRuns(w *record) {
	end := c.connection(w.connection).ended
	if w.set == far || end == far {
		return
	}
	for _, e := range c.events {
		if e.Kind == Dropping && e.selects(w) {
			return
		}
	}
	late := c.deadline(end, w.after)
	for _, e := range c.arrivals[clientTopic{w.subject, w.client, w.topic}] {
		if e.Connection != w.connection && e.At <= late && c.isNewer(&e, w) {
			c.summary.Superseded++
			return
		}
	}
	if late > c.finished {
		return // the run ended before
	}
	c.summary.Obliged++
	if at, ok := c.killed[w.node]; ok && at <= end {
		c.summary.Orphaned++
	}
	if len(w.ran) == 0 {
		c.fail(Runs, "will %s of connection %s, which ended at %s, did not run until %s", w.id, w.connection, c.at(end),
			c.at(late))
		return
	}
	if w.ran[0] > late {
		c.fail(Runs, "will %s of connection %s, which ended at %s, ran at %s, which is after %s", w.id, w.connection,
			c.at(end), c.at(w.ran[0]), c.at(late))
	}
	if c.limits.Recorded == nil || !c.limits.Recorded(w.topic) {
		return
	}
	for _, observer := range c.limits.Observers {
		if w.got[observer] == 0 {
			c.fail(Runs, "%s has not received will %s, which ran at %s", observer, w.id, c.at(w.ran[0]))
		}
	}
}

// deadline returns when a will must have run. Each fault before then may delay it.
func (c *checker) deadline(end int64, after time.Duration) int64 {
	l := c.limits
	late := end + int64(l.Lease+after+l.Poll+l.Slack)
	for _, e := range c.events {
		if (e.Kind == Killed || e.Kind == Broken || e.Kind == Mended) && e.At >= end-int64(l.Lease) && e.At <= late {
			late = max(late, e.At+int64(l.Lease+after+l.Hold+l.Poll+l.Slack))
		}
	}
	return late
}

func (c *checker) checkReceived(w *record) {
	if c.limits.Recorded == nil || !c.limits.Recorded(w.topic) {
		return
	}
	for _, observer := range sortedKeys(w.got) {
		if n := w.got[observer]; n > 1 {
			c.fail(Once, "%s has received will %s %d times", observer, w.id, n)
		}
	}
}

func (c *checker) checkArrived() {
	for name, joins := range c.joins {
		for _, e := range joins {
			if !slices.ContainsFunc(c.arrivals[name], func(a Event) bool {
				return a.Connection == e.Connection && a.At <= e.At
			}) {
				c.fail(Arrived, "connection %s joined %s as %q at %s, and has not arrived", e.Connection, e.Topic, e.Subject,
					c.at(e.At))
			}
		}
	}
}
