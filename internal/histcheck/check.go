package histcheck

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Limits are those of the topic. They justify replies without recovery.
type Limits struct {
	Count     int // the number of records that the log keeps at least
	MaxReplay int // the largest number of records of one recovery

	// AnyOrder says that clients that did not ask may receive records late or, while they catch up,
	// not at all: the handler intercepts some, or the log removes or forgets records.
	AnyOrder bool

	// Skips says that the log may remove records that a join callback has not loaded, before the
	// reply. Then the position of a reply without recovery may come after them.
	Skips bool
}

// Rule is one of the rules that a recording must keep.
type Rule string

const (
	// Unique: a position never names two records.
	Unique Rule = "unique"
	// Growing: the offsets that a client receives in one join grow, from the reply's position on.
	Growing Rule = "growing"
	// NoHole: between two neighbours that a client receives in one join lies no other record.
	NoHole Rule = "no hole"
	// Delivered: a record whose append succeeded reaches every client that is joined at the end and
	// whose last reply without recovery came before the append.
	Delivered Rule = "delivered"
	// RealTime: if one append returned before another began, its record has the lower offset.
	RealTime Rule = "real time"
	// SenderOrder: the records of one sender have the order in which it sent them.
	SenderOrder Rule = "sender's order"
	// Once: an append makes at most one record, and one that failed makes none.
	Once Rule = "once"
	// AtTop: at the end every joined client that asked for history is at the top.
	AtTop Rule = "at the top"
	// Cause: a reply without recovery has a cause, which is a fault or one of the limits. A reply
	// with recovery continues exactly the position that the client sent.
	Cause Rule = "cause"
	// Continued: a client that is at a record which the log has lost receives no record that it has
	// not lost, until another join was answered.
	Continued Rule = "continued"
	// Snapshot: what a join callback loaded and what follows the reply have no hole between them, nor
	// has what a client receives that did not ask.
	Snapshot Rule = "snapshot"
	// Reach: a client receives no record that was stored before the time that its join may read back
	// to, if the record's append had succeeded before the join began. Later records are not history,
	// whatever time the log's clock has.
	Reach Rule = "reach"
)

// Violation describes where the recording breaks a rule.
type Violation struct {
	Rule Rule
	Text string
}

func (v Violation) String() string { return string(v.Rule) + ": " + v.Text }

// Check returns every violation of the rules in what was recorded so far. The topic must be at
// rest: no append or join under way, and every client was given time to receive everything.
func (r *Recorder) Check(limits Limits) []Violation {
	r.mu.Lock()
	events := slices.Clone(r.events)
	r.mu.Unlock()
	c := checker{
		limits: limits, records: map[string]*record{}, at: map[position]string{},
		clients: map[string]*client{},
	}
	c.readRecords(events)
	c.checkRecords()
	c.checkClients(events)
	c.checkEnd()
	return c.violations
}

// position is a parsed position.
type position struct {
	epoch  string
	offset uint64
	tag    string
}

// parse reads "<epoch>-<offset>-<tag>". It returns false if s has another form.
func parse(s string) (p position, ok bool) {
	parts := strings.Split(s, "-")
	if len(parts) != 3 {
		return p, false
	}
	n, err := strconv.ParseUint(parts[1], 10, 64)
	return position{parts[0], n, parts[2]}, err == nil
}

// record is one append and what became of it.
type record struct {
	id           string
	sender, skip string
	order        int // of the append's begin among the sender's appends
	began, ended int // event numbers; ended is -1 while it is not known to have succeeded
	failed       bool
	lost         bool // by the log
	pos          position
	known        bool      // pos is known
	time         time.Time // by the log's clock; zero: unknown
}

// client is what is known of a client while its events are read in order.
type client struct {
	name    string
	joined  bool
	asked   bool
	since   string          // of the last join that was sent
	waiting bool            // a join was sent and not answered yet
	reach   time.Time       // of the present join
	began   int             // the number of events before that join
	cursor  position        // of the present join
	valid   bool            // cursor is known
	got     map[string]bool // ids loaded or received since the last reply without recovery
	frames  map[string]bool // ids received in the present join
	fresh   int             // event number of that reply
	loaded  bool
}

type checker struct {
	limits     Limits
	records    map[string]*record
	order      []*record // as they began
	at         map[position]string
	byOffset   map[string][]*record // by epoch, sorted by offset
	clients    map[string]*client
	faults     []event
	faultAt    []int
	violations []Violation
}

func (c *checker) fail(rule Rule, format string, args ...any) {
	c.violations = append(c.violations, Violation{rule, fmt.Sprintf(format, args...)})
}

// readRecords collects the records with all that anybody knows of their positions.
func (c *checker) readRecords(events []event) {
	counts := map[string]int{}
	for i, e := range events {
		switch e.kind {
		case appendBegan:
			if c.records[e.id] != nil {
				c.fail(Once, "record %s was appended twice by the test itself", e.id)
				continue
			}
			rec := &record{
				id: e.id, sender: e.client, skip: e.skip, order: counts[e.client], began: i, ended: -1,
			}
			counts[e.client]++
			c.records[e.id] = rec
			c.order = append(c.order, rec)
		case appendOK:
			if rec := c.records[e.id]; rec != nil {
				rec.ended = i
				c.learn(rec, e.pos)
			}
		case appendFailed:
			if rec := c.records[e.id]; rec != nil {
				rec.failed = true
			}
		case stored:
			if rec := c.records[e.id]; rec != nil {
				rec.time = e.time
			}
		case lost:
			if rec := c.records[e.id]; rec != nil {
				rec.lost = true
				c.learn(rec, e.pos)
			}
		case received:
			rec := c.records[e.id]
			if rec == nil {
				c.fail(Once, "%s received %s, which nobody appended", e.client, e.id)
				continue
			}
			if rec.failed {
				c.fail(Once, "%s received %s, whose append had failed", e.client, e.id)
			}
			c.learn(rec, e.pos)
		}
	}
	c.byOffset = map[string][]*record{}
	for _, rec := range c.order {
		if rec.known && !rec.lost {
			c.byOffset[rec.pos.epoch] = append(c.byOffset[rec.pos.epoch], rec)
		}
	}
	for _, all := range c.byOffset {
		slices.SortFunc(all, func(a, b *record) int { return cmp.Compare(a.pos.offset, b.pos.offset) })
	}
}

// learn notes the position of a record.
func (c *checker) learn(rec *record, text string) {
	if text == "" {
		return
	}
	pos, ok := parse(text)
	if !ok {
		c.fail(Unique, "record %s has the malformed position %q", rec.id, text)
		return
	}
	if rec.known && rec.pos != pos {
		c.fail(Once, "record %s has two positions, %v and %v", rec.id, rec.pos, pos)
		return
	}
	if other, taken := c.at[pos]; taken && other != rec.id {
		c.fail(Unique, "%v names both %s and %s", pos, other, rec.id)
		return
	}
	rec.pos, rec.known = pos, true
	c.at[pos] = rec.id
}

// checkRecords compares the log's order with real time and with each sender's order.
func (c *checker) checkRecords() {
	for epoch, all := range c.byOffset {
		// From the newest to the oldest: the earliest end of a later record.
		earliest, which := -1, (*record)(nil)
		for _, rec := range slices.Backward(all) {
			if which != nil && earliest < rec.began {
				c.fail(RealTime, "epoch %s: %s (offset %d) began after the append of %s (offset %d) had returned",
					epoch, rec.id, rec.pos.offset, which.id, which.pos.offset)
			}
			if rec.ended >= 0 && (which == nil || rec.ended < earliest) {
				earliest, which = rec.ended, rec
			}
		}
		last := map[string]*record{}
		for _, rec := range all {
			if before := last[rec.sender]; before != nil && before.order > rec.order {
				c.fail(SenderOrder, "epoch %s: %s sent %s before %s, which has the lower offset",
					epoch, rec.sender, rec.id, before.id)
			}
			last[rec.sender] = rec
		}
	}
}

// between returns the records of an epoch whose offsets lie strictly between two offsets.
func (c *checker) between(epoch string, low, high uint64) []*record {
	all := c.byOffset[epoch]
	from, _ := slices.BinarySearchFunc(all, low+1, byOffset)
	to, _ := slices.BinarySearchFunc(all, high, byOffset)
	return all[from:max(from, to)]
}

func byOffset(rec *record, offset uint64) int { return cmp.Compare(rec.pos.offset, offset) }
