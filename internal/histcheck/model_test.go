package histcheck

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// model is a topic with a perfect log, whose clients receive everything. A fault makes it break one
// promise.
type model struct {
	*Recorder
	rnd     *rand.Rand
	fault   string
	epoch   int
	log     []string
	stored  []string // the application's database
	clients []*modelClient
	count   int
}

type modelClient struct {
	name        string
	asked, live bool
	at          string // the position that it stored
	next        int    // offset of the next record to be sent
}

const (
	modelCount  = 8
	modelReplay = 5
)

func (m *model) pos(offset int) string {
	if offset == 0 {
		return fmt.Sprintf("e%d-0-0000", m.epoch)
	}
	return fmt.Sprintf("e%d-%d-%s", m.epoch, offset, m.log[offset-1])
}

// has reports whether the model breaks this promise, now and then.
func (m *model) has(fault string) bool { return m.fault == fault && m.rnd.IntN(4) == 0 }

func (m *model) append() {
	m.count++
	id, sender := fmt.Sprintf("r%d", m.count), fmt.Sprintf("s%d", m.rnd.IntN(2))
	m.stored = append(m.stored, id)
	m.Append(sender, id, "")
	switch m.rnd.IntN(10) {
	case 0:
		m.Failed(id)
		if m.has("failed append is delivered") {
			m.log = append(m.log, id)
		} else {
			m.stored = m.stored[:len(m.stored)-1]
		}
		return
	case 1:
		m.Uncertain(id)
		if m.rnd.IntN(2) == 0 {
			return // there is no record; the database may have what the log has not
		}
		m.log = append(m.log, id)
		if m.has("uncertain append is repeated") {
			m.log = append(m.log, id)
		}
		return
	}
	if n := len(m.log); m.has("append overtakes") && n > 0 && m.lastUnsent() {
		m.log = append(m.log[:n-1], id, m.log[n-1])
		m.Appended(id, m.pos(n))
		return
	}
	m.log = append(m.log, id)
	m.Appended(id, m.pos(len(m.log)))
}

// lastUnsent reports whether no client has received the last record, so that another may still be
// put before it.
func (m *model) lastUnsent() bool {
	return !slices.ContainsFunc(m.clients, func(c *modelClient) bool { return c.next > len(m.log) })
}

func (m *model) join(c *modelClient) {
	since := c.at
	if !c.asked {
		since = ""
	}
	m.Join(c.name, since, c.asked)
	reply := Reply{Pos: m.pos(len(m.log)), Why: "new"}
	c.next = len(m.log) + 1
	if p, ok := parse(since); ok {
		offset := int(p.offset)
		switch missed := len(m.log) - offset; {
		case p.epoch != fmt.Sprintf("e%d", m.epoch) && m.fault != "epoch is ignored":
			reply.Why = "epoch"
		case missed < 0:
			reply.Why = "epoch"
		case missed > modelCount:
			reply.Why = "trimmed"
		case missed > modelReplay:
			reply.Why = "many"
			if m.has("many is recovered without the rest") {
				reply = Reply{Pos: since, Recovered: true}
			}
		case m.has("spurious refusal"):
			reply.Why = "trimmed"
		default:
			reply, c.next = Reply{Pos: since, Recovered: true}, offset+1
			if m.has("reply has the top as its position") {
				reply.Pos = m.pos(len(m.log))
			}
			if m.has("replay is off by one") {
				c.next++
			}
		}
	}
	if !reply.Recovered {
		reply.Loaded, reply.Snapshot = true, slices.Clone(m.stored)
		if m.has("mark after the callback") {
			m.append()
			reply.Pos, c.next = m.pos(len(m.log)), len(m.log)+1
		}
	}
	if !c.asked {
		reply.Pos, reply.Why = "", ""
		if m.has("join gap") {
			m.append()
			c.next = len(m.log) + 1
		}
	}
	m.Joined(c.name, reply)
	c.at, c.live = reply.Pos, true
}

func (m *model) send(c *modelClient) {
	if c.next > len(m.log) {
		return
	}
	switch {
	case m.has("record is skipped"):
		c.next++
		return
	case m.has("record is repeated"):
		m.frame(c)
	}
	m.frame(c)
	c.next++
}

func (m *model) frame(c *modelClient) {
	id, pos := m.log[c.next-1], m.pos(c.next)
	switch {
	case !c.asked:
		pos = ""
	case m.has("position of another record"):
		pos = m.pos(max(1, c.next-1))
	}
	m.Received(c.name, pos, id)
	if c.asked {
		c.at = pos
	}
}

func (m *model) lose() {
	m.epoch++
	m.log = nil
	m.Fault("epoch")
	for _, c := range m.clients {
		if c.live {
			m.end(c)
		}
	}
}

func (m *model) end(c *modelClient) {
	c.live = false
	m.Cut(c.name)
}

func (m *model) run(steps int) []Violation {
	for i := range 4 {
		m.clients = append(m.clients, &modelClient{name: fmt.Sprintf("c%d", i), asked: i < 3})
	}
	for range steps {
		c := m.clients[m.rnd.IntN(len(m.clients))]
		switch n := m.rnd.IntN(100); {
		case n < 30:
			m.append()
		case n < 80 && c.live:
			m.send(c)
		case n < 80:
			m.join(c)
		case n < 99 && c.live && n%4 == 0:
			m.end(c)
		case n == 99 && m.rnd.IntN(4) == 0:
			m.lose()
		}
	}
	for _, c := range m.clients {
		if m.has("client misses the end") {
			continue
		}
		for c.live && c.next <= len(m.log) {
			m.send(c)
		}
	}
	return m.Check(Limits{Count: modelCount, MaxReplay: modelReplay})
}

func newModel(fault string, seed uint64) *model {
	return &model{Recorder: new(Recorder), rnd: rand.New(rand.NewPCG(seed, 1)), fault: fault}
}

func TestPerfectModel(t *testing.T) {
	t.Parallel()
	for seed := range uint64(300) {
		if v := newModel("", seed).run(400); len(v) > 0 {
			t.Fatalf("seed %d: %v", seed, v)
		}
	}
}

// Every fault of the model is found, by a rule that it breaks.
func TestFaultyModels(t *testing.T) {
	t.Parallel()
	for fault, rules := range map[string][]Rule{
		"failed append is delivered":         {Once},
		"uncertain append is repeated":       {Once},
		"append overtakes":                   {RealTime},
		"epoch is ignored":                   {Cause},
		"many is recovered without the rest": {NoHole, Delivered, AtTop},
		"spurious refusal":                   {Cause},
		"reply has the top as its position":  {Cause},
		"replay is off by one":               {NoHole, Delivered},
		"mark after the callback":            {Snapshot},
		"join gap":                           {Snapshot},
		"record is skipped":                  {NoHole, Delivered},
		"record is repeated":                 {Growing},
		"position of another record":         {Unique, Growing, Once},
		"client misses the end":              {Delivered, AtTop},
	} {
		t.Run(fault, func(t *testing.T) {
			t.Parallel()
			const seeds = 30
			for seed := range uint64(seeds) {
				found := newModel(fault, seed).run(400)
				if slices.ContainsFunc(found, func(v Violation) bool { return slices.Contains(rules, v.Rule) }) {
					return
				}
			}
			t.Errorf("not found in %d runs", seeds)
		})
	}
}
