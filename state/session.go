package state

import (
	"errors"
	"time"

	"bennu.example/channel"
	"bennu.example/history"
	"bennu.example/internal/channelhost"
	"bennu.example/internal/ratelimit"
	"bennu.example/push"
	"bennu.example/transport"
)

// Session is the state of one channel of a handler. Data belongs to Config.Options.
type Session struct {
	Data any

	member member
}

// stage is how far a session has come. It is guarded by the cell.
type stage uint8

const (
	stageNone    stage = iota // not in the cell
	stageReading              // it reads pages; what the cell delivers is not for it
	stageLive                 // the cell sends it every change
	stageEnded                // it gets nothing any more, and its channel is about to end
	stageLeft                 // its channel has ended
)

// member is a session in its cell.
type member struct {
	channel *channel.Channel
	cell    *cell
	keys    Range // what the client receives

	window *window // nil means that the client receives all items of keys; set before the cell has it

	// Guarded by the cell.
	stage    stage
	place    int32 // in cell.sessions
	withheld int32 // changes outside of keys since the client's last position
	timer    *time.Timer

	// Owned by the callbacks' goroutine.
	rounds int32  // attempts to become live
	pages  bool   // pages are missing
	next   string // where the next page begins
	// mark is where the client continues: it has everything up to here, but for the pages that are
	// missing. In a window, the rows were read when the object had at least this position.
	mark  history.Position
	rates *rates // nil until they are needed
	h     *handler
}

// rates are what a client has used of its limits.
type rates struct{ writes, reads ratelimit.Bucket }

// used returns the session's rates.
func (m *member) used() *rates {
	if m.rates == nil {
		m.rates = new(rates)
	}
	return m.rates
}

// readOn is a message of a session to itself.
type readOn struct{}

// ended is a message to a session: its object is gone.
type ended struct{ reason push.Reason }

// A client that receives no change, because all are outside of its keys, gets its position after
// so many of them, or after this time.
const (
	maxWithheld  = 256
	maxWithheldT = 30 * time.Second
)

// forward sends the part of a change that the client receives. The parts that were encoded for
// other sessions are passed on. The caller holds the cell's lock.
func (m *member) forward(s *sent, parts map[Range]frame) map[Range]frame {
	f := s.frame
	if m.keys != (Range{}) && len(s.items) > 0 {
		n := 0
		for i := range s.items {
			if m.keys.touches(&s.items[i]) {
				n++
			}
		}
		switch {
		case n == 0:
			m.withhold(s.pos)
			return parts
		case n < len(s.items):
			var ok bool
			if f, ok = parts[m.keys]; !ok {
				f = m.part(s)
				if parts == nil {
					parts = make(map[Range]frame)
				}
				parts[m.keys] = f
			}
		}
	}
	m.withheld = 0
	m.send(f)
	return parts
}

// part returns the event with those items of a change that the client receives.
func (m *member) part(s *sent) frame {
	var items []Item
	for i := range s.items {
		if m.keys.touches(&s.items[i]) {
			items = append(items, s.items[i])
		}
	}
	return changeFrame(m.cell.topic, items, s.pos)
}

// send sends a frame. An error means that the connection has ended, and the channel with it, or
// that the client's version cannot carry the frame, which is an object and always can be.
func (m *member) send(f frame) { _ = channelhost.Forward(m.channel, f.b, f.how) }

// sendSynced sends the client's position. The caller holds the cell's lock.
func (m *member) sendSynced(pos history.Position) {
	m.withheld = 0
	m.send(changeFrame(m.cell.topic, nil, pos))
}

// withhold notes that the client was not sent a change. The caller holds the cell's lock.
func (m *member) withhold(pos history.Position) {
	if m.withheld++; m.withheld >= maxWithheld {
		m.sendSynced(pos)
		return
	}
	if m.withheld > 1 {
		return
	}
	if m.timer == nil {
		m.timer = time.AfterFunc(maxWithheldT, m.sendWithheld)
	} else {
		m.timer.Reset(maxWithheldT)
	}
}

// sendWithheld sends the client's position if it was not sent a change.
func (m *member) sendWithheld() {
	m.cell.mu.Lock()
	defer m.cell.mu.Unlock()
	if m.stage == stageLive && m.withheld > 0 {
		m.sendSynced(m.cell.cursor)
	}
}

// loseAfter ends the channel by phx_error after some time, so that the client comes back. The
// caller holds the cell's lock.
func (m *member) loseAfter(d time.Duration) {
	if m.timer != nil {
		m.timer.Stop()
	}
	m.timer = time.AfterFunc(d, func() { channelhost.Lose(m.channel) })
}

// ifRoom is how pages are sent: only if the connection has room, since they can be read again
// later.
var ifRoom = transport.Delivery{IfRoom: true}

// isNoRoom reports whether the connection has no room for a page.
func isNoRoom(err error) bool { return errors.Is(err, transport.ErrNoRoom) }
