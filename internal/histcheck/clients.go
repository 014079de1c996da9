package histcheck

import "slices"

// checkClients follows each client through its joins.
func (c *checker) checkClients(events []event) {
	for i, e := range events {
		switch e.kind {
		case fault:
			c.faults, c.faultAt = append(c.faults, e), append(c.faultAt, i)
			continue
		case joinSent, joinReplied, received, moved, cut:
		default:
			continue
		}
		cl := c.clients[e.client]
		if cl == nil {
			cl = &client{name: e.client, got: map[string]bool{}}
			c.clients[e.client] = cl
		}
		switch e.kind {
		case joinSent:
			cl.since, cl.asked, cl.waiting = e.since, e.asked, true
		case joinReplied:
			c.replied(cl, e.reply, i)
		case received:
			c.received(cl, e)
		case moved:
			if pos, ok := parse(e.pos); ok && cl.joined {
				c.advance(cl, pos, "")
			} else {
				c.fail(Growing, "%s was moved to %q", cl.name, e.pos)
			}
		case cut:
			cl.joined, cl.waiting = false, false
		}
	}
}

func (c *checker) replied(cl *client, reply Reply, i int) {
	if !cl.waiting {
		c.fail(Growing, "%s received the reply to a join that it did not send", cl.name)
	}
	cl.joined, cl.waiting, cl.reach, cl.began = true, false, reply.Reach, reply.Began
	var ok bool
	if cl.cursor, ok = parse(reply.Pos); ok != cl.asked {
		c.fail(Cause, "%s, asked %v: the reply has the position %q", cl.name, cl.asked, reply.Pos)
	}
	cl.valid, cl.frames = ok, map[string]bool{}
	switch {
	case reply.Recovered && (reply.Pos != cl.since || cl.since == ""):
		c.fail(Cause, "%s sent %q and was recovered from %q", cl.name, cl.since, reply.Pos)
	case reply.Recovered:
		return
	case cl.asked && !c.justified(cl, reply, i):
		c.fail(Cause, "%s sent %q and was not recovered, for no cause: %s", cl.name, cl.since, reply.Why)
	}
	cl.got, cl.fresh, cl.loaded = map[string]bool{}, i, reply.Loaded
	for _, id := range reply.Snapshot {
		cl.got[id] = true
	}
	if !reply.Loaded || !cl.valid || c.limits.Skips {
		return
	}
	if rec := c.records[c.at[cl.cursor]]; rec != nil && rec.lost {
		return // other records precede it than those that remain
	}
	for _, rec := range c.byOffset[cl.cursor.epoch] {
		if rec.pos.offset <= cl.cursor.offset && !cl.got[rec.id] {
			c.fail(Snapshot, "%s: %s is at %v, not after the reply's %v, and its callback did not load it",
				cl.name, rec.id, rec.pos, cl.cursor)
		}
	}
}

// justified reports whether the reason of a reply without recovery is true.
func (c *checker) justified(cl *client, reply Reply, i int) bool {
	if cl.since == "" || reply.Why == "new" {
		return cl.since == "" && reply.Why == "new"
	}
	since, ok := parse(cl.since)
	if !ok {
		return false
	}
	// A fault is a cause if it came after the record that the client named.
	seen := -1
	if rec := c.records[c.at[since]]; rec != nil {
		seen = rec.began
	}
	for k, f := range c.faults {
		if f.why == reply.Why && c.faultAt[k] > seen && c.faultAt[k] < i {
			return true
		}
	}
	missed := 0 // at most: an append that ended uncertain may have made a record that nobody received
	old := false
	for _, rec := range c.order {
		after := rec.pos.epoch == since.epoch && rec.pos.offset > since.offset
		if rec.began < i && !rec.failed && (after || !rec.known) {
			missed++
			old = old || rec.time.Before(reply.Reach) // or it is not known when the record was stored
		}
	}
	switch reply.Why {
	case "many":
		return missed > c.limits.MaxReplay
	case "trimmed":
		return missed > c.limits.Count
	case "reach":
		return old
	}
	return false
}

func (c *checker) received(cl *client, e event) {
	if !cl.joined {
		c.fail(Growing, "%s received %s while it was not joined", cl.name, e.id)
		return
	}
	pos, ok := parse(e.pos)
	switch {
	case ok != cl.asked:
		c.fail(Cause, "%s, asked %v: record %s came with the position %q", cl.name, cl.asked, e.id, e.pos)
	case ok:
		c.advance(cl, pos, e.id)
	case cl.frames[e.id]:
		c.fail(Growing, "%s received %s twice", cl.name, e.id)
	case !c.limits.AnyOrder:
		c.advanceWithout(cl, e.id)
	}
	if rec := c.records[e.id]; rec != nil && rec.ended >= 0 && rec.ended < cl.began &&
		!rec.time.IsZero() && rec.time.Before(cl.reach) {
		c.fail(Reach, "%s received %s of %v although its join may read back to %v only",
			cl.name, e.id, rec.time, cl.reach)
	}
	cl.got[e.id], cl.frames[e.id] = true, true
}

// advanceWithout moves the position of a client that did not ask to the record id, whose position
// others have learned.
func (c *checker) advanceWithout(cl *client, id string) {
	rec := c.records[id]
	if rec == nil || !rec.known {
		return
	}
	first := cl.cursor.epoch != rec.pos.epoch
	if !first && rec.pos.offset < cl.cursor.offset {
		c.fail(Growing, "%s was at %v and received %s at %v", cl.name, cl.cursor, id, rec.pos)
		return
	}
	low := cl.cursor.offset
	if first {
		low = 0
	}
	if !first || cl.loaded {
		for _, lost := range c.between(rec.pos.epoch, low, rec.pos.offset) {
			if lost.skip != cl.name && !cl.got[lost.id] {
				c.fail(Snapshot, "%s neither loaded nor received %s at %v before it received %s at %v",
					cl.name, lost.id, lost.pos, id, rec.pos)
			}
		}
	}
	cl.cursor = rec.pos
}

// advance moves the client's position to pos, which is that of the record id or, if id is empty,
// of records that it does not receive.
func (c *checker) advance(cl *client, pos position, id string) {
	if !cl.valid {
		return
	}
	if pos.epoch != cl.cursor.epoch {
		c.fail(Growing, "%s was at %v and received %v", cl.name, cl.cursor, pos)
		cl.cursor = pos
		return
	}
	if stays := id == "" && pos == cl.cursor; pos.offset <= cl.cursor.offset && !stays {
		c.fail(Growing, "%s was at %v and received %v", cl.name, cl.cursor, pos)
		return
	}
	from, to := c.records[c.at[cl.cursor]], c.records[c.at[pos]]
	switch {
	case to != nil && to.lost: // it may follow other records than those that remain
		cl.cursor = pos
		return
	case to != nil && from != nil && from.lost:
		c.fail(Continued, "%s was at %v, which was lost, and received %v", cl.name, cl.cursor, pos)
	}
	end := pos.offset
	if id == "" {
		end++ // what it moves over includes the record at pos
	}
	for _, rec := range c.between(pos.epoch, cl.cursor.offset, end) {
		if rec.skip != cl.name {
			c.fail(NoHole, "%s went from %v to %v without %s at %v", cl.name, cl.cursor, pos, rec.id, rec.pos)
		}
	}
	cl.cursor = pos
}

// checkEnd checks that the clients that are joined have everything that they were promised.
func (c *checker) checkEnd() {
	top := c.top()
	for _, cl := range c.clients {
		if !cl.joined {
			continue
		}
		for _, rec := range c.order {
			switch {
			case rec.ended < 0 || rec.lost || rec.skip == cl.name || cl.got[rec.id]:
			case rec.began > cl.fresh:
				c.fail(Delivered, "%s is joined and never received %s", cl.name, rec.id)
			case cl.loaded && !cl.asked:
				c.fail(Snapshot, "%s neither loaded nor received %s", cl.name, rec.id)
			}
		}
		if cl.valid && top.epoch == cl.cursor.epoch && top.offset > cl.cursor.offset {
			c.fail(AtTop, "%s is at %v, the top is %v", cl.name, cl.cursor, top)
		}
	}
}

// top returns the highest position in the epoch of the last append whose position is known.
func (c *checker) top() position {
	for _, rec := range slices.Backward(c.order) {
		if rec.known && !rec.lost {
			all := c.byOffset[rec.pos.epoch]
			return all[len(all)-1].pos
		}
	}
	return position{}
}
