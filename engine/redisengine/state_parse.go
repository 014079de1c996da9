package redisengine

import (
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"bennu.example/history"
	"bennu.example/state"
)

// itemTexts is the number of texts of an item in a message or an answer.
const itemTexts = 8

// unpack decodes texts of a script.
func unpack(data string) (all []string, err error) {
	for data != "" {
		size, rest, ok := strings.Cut(data, ":")
		n, err := strconv.Atoi(size)
		if !ok || err != nil || n < 0 || n > len(rest) {
			return nil, errAnswer
		}
		all, data = append(all, rest[:n]), rest[n:]
	}
	return all, nil
}

// positionOf decodes a position of a script.
func positionOf(text string) (history.Position, error) {
	fields := strings.Split(text, " ")
	if len(fields) != 3 {
		return history.Position{}, errAnswer
	}
	return parsePosition(fields[0], fields[1], fields[2])
}

// timeOf decodes a time in Unix milliseconds. Zero is the zero time.
func timeOf(text string) (t time.Time, err error) {
	ms, err := strconv.ParseInt(text, 10, 64)
	if err == nil && ms != 0 {
		t = time.UnixMilli(ms)
	}
	return t, err
}

// parseItem decodes an item.
func parseItem(texts []string) (it state.Item, err error) {
	it = state.Item{Key: texts[0], From: texts[1], Deleted: texts[3], Under: texts[4] == "1", Writer: texts[6]}
	if it.Rev, err = strconv.ParseUint(texts[2], 10, 64); err != nil {
		return it, err
	}
	if it.Deleted == "" {
		it.Value = []byte(texts[7])
	}
	it.Expires, err = timeOf(texts[5])
	return it, err
}

func parseItems(texts []string) (items []state.Item, err error) {
	if len(texts)%itemTexts != 0 {
		return nil, errAnswer
	}
	for ; len(texts) > 0; texts = texts[itemTexts:] {
		it, err := parseItem(texts)
		if err != nil {
			return nil, err
		}
		items = append(items, it)
	}
	return items, nil
}

// parseChange decodes a message about an object.
func parseChange(data string) (c state.Change, err error) {
	all, err := unpack(data)
	if err != nil {
		return c, err
	}
	if len(all) < 3 {
		return c, errAnswer
	}
	if c.Prev, err = positionOf(all[0]); err != nil {
		return c, err
	}
	if c.Position, err = positionOf(all[1]); err != nil {
		return c, err
	}
	c.Gone = all[2]
	c.Items, err = parseItems(all[3:])
	return c, err
}

// parseApplied decodes the answer to a write that succeeded: whether it is an earlier one, the
// revisions, and the change without the values of ops.
func parseApplied(answer []string, ops []state.Op) (a state.Applied, err error) {
	if len(answer) != 3 {
		return a, errAnswer
	}
	a.Repeated = answer[0] == "again"
	for text := range strings.SplitSeq(answer[1], ",") {
		if text == "" { // after the last comma
			break
		}
		rev, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			return a, err
		}
		a.Revs = append(a.Revs, rev)
	}
	c, err := parseChange(answer[2])
	if err != nil {
		return a, err
	}
	a.Prev, a.Position, a.Items = c.Prev, c.Position, c.Items
	values := make(map[string][]byte, len(ops))
	if !a.Repeated {
		for i := range ops {
			values[ops[i].Key] = ops[i].Value
		}
	}
	for i := range a.Items {
		if it := &a.Items[i]; a.Repeated {
			it.Value = nil
		} else if it.Deleted == "" && it.From == "" {
			it.Value = values[it.Key]
		}
	}
	if len(a.Revs) != len(ops) && !a.Repeated {
		return a, errAnswer
	}
	return a, nil
}

// parseConflict decodes the answer to a write whose condition did not hold.
func parseConflict(answer []string, ops []state.Op) (*state.ConflictError, error) {
	if len(answer) != 4 {
		return nil, errAnswer
	}
	op, err := strconv.Atoi(answer[1])
	if err != nil || op < 0 || op >= len(ops) {
		return nil, errAnswer
	}
	rev, err := strconv.ParseUint(answer[2], 10, 64)
	if err != nil {
		return nil, err
	}
	c := &state.ConflictError{Op: op, Key: ops[op].Key, Rev: rev}
	if rev > 0 {
		c.Value = []byte(answer[3])
	}
	return c, nil
}

// parsePage decodes the answer of the read script.
func parsePage(answer rueidis.RedisResult) (p state.Page, err error) {
	const fixed, each = 4, 5
	all, err := texts(answer)
	if err != nil {
		return p, err
	}
	if len(all) < fixed || (len(all)-fixed)%each != 0 {
		return p, errAnswer
	}
	if p.Position, err = positionOf(all[0]); err != nil {
		return p, err
	}
	if p.Expires, err = timeOf(all[1]); err != nil {
		return p, err
	}
	if all[2] == "1" {
		p.Next = all[3]
	}
	for all = all[fixed:]; len(all) > 0; all = all[each:] {
		it := state.Item{Key: all[0], Writer: all[3], Value: []byte(all[4])}
		if it.Rev, err = strconv.ParseUint(all[1], 10, 64); err != nil {
			return p, err
		}
		if it.Expires, err = timeOf(all[2]); err != nil {
			return p, err
		}
		p.Items = append(p.Items, it)
	}
	return p, nil
}

// objectChanges is the answer of the script that reads changes.
type objectChanges struct {
	absent       history.Position // the position of an object that does not exist
	top          history.Position // zero if the object does not exist
	first, floor uint64
	tag          string           // of the revision that was asked for
	last         history.Position // zero if nothing was looked at
	more         bool
	items        []state.Item
}

func parseChanges(answer rueidis.RedisResult) (c objectChanges, err error) {
	const fixed = 7
	all, err := texts(answer)
	if err != nil {
		return c, err
	}
	if len(all) != 1 && len(all) < fixed {
		return c, errAnswer
	}
	if c.absent, err = positionOf(all[0]); err != nil || len(all) == 1 {
		return c, err
	}
	if c.top, err = positionOf(all[1]); err != nil {
		return c, err
	}
	if c.first, err = strconv.ParseUint(all[2], 10, 64); err != nil {
		return c, err
	}
	if c.floor, err = strconv.ParseUint(all[3], 10, 64); err != nil {
		return c, err
	}
	c.tag, c.more = all[4], all[6] == "1"
	if all[5] != "" {
		if c.last, err = positionOf(all[5]); err != nil {
			return c, err
		}
	}
	c.items, err = parseItems(all[fixed:])
	return c, err
}

// after returns the page after a position, or why the position cannot be continued.
func (c *objectChanges) after(since history.Position, r state.Range, limit int) (state.Page, error) {
	if err := c.canContinue(since); err != nil {
		return state.Page{}, err
	}
	if c.top.IsZero() {
		return state.Page{Position: c.absent}, nil
	}
	p := state.Page{Position: since, More: since.Offset() < c.top.Offset()}
	if limit <= 0 || !p.More {
		return p, nil
	}
	p.Position, p.More = c.top, c.more
	if c.more {
		if p.Position = c.last; c.last.IsZero() {
			p.Position = since
		}
	}
	for _, it := range c.items {
		if r.Touches(it) {
			p.Items = append(p.Items, it)
		}
	}
	return p, nil
}

func (c *objectChanges) canContinue(since history.Position) error {
	rev := since.Offset()
	switch {
	case since == c.absent && !c.top.IsZero() && c.first > 1:
		return history.ErrTrimmed
	case since == c.absent:
		return nil
	case since.Epoch() == c.absent.Epoch():
		return history.ErrTag
	case c.top.IsZero() || since.Epoch() != c.top.Epoch():
		return history.ErrEpoch
	case rev > c.top.Offset():
		return history.ErrAhead
	case rev == 0: // no object begins so
		return history.ErrTag
	case rev < c.first:
		return history.ErrTrimmed
	case c.tag != since.Tag():
		return history.ErrTag
	case rev < c.floor:
		return history.ErrTrimmed
	}
	return nil
}

// metaFields is the number of fields of an object's meta.
const metaFields = 10

// parseTops decodes the time, and the metas of objects with the base epoch.
func parseTops(answers []rueidis.RedisResult, n int) (tops []history.Position, err error) {
	clock, err := texts(answers[0])
	if err != nil {
		return nil, err
	}
	metas, err := answers[1].ToArray()
	if err != nil {
		return nil, err
	}
	if len(clock) != 2 || len(metas) != n+1 {
		return nil, errAnswer
	}
	seconds, err := strconv.ParseInt(clock[0], 10, 64)
	if err != nil {
		return nil, err
	}
	micros, err := strconv.ParseInt(clock[1], 10, 64)
	if err != nil {
		return nil, err
	}
	now := time.UnixMilli(seconds*1000 + micros/1000)
	epoch, err := metas[n].ToString()
	if err != nil {
		return nil, err
	}
	absent, err := history.NewPosition(epoch, 0, beginning)
	if err != nil {
		return nil, err
	}
	for i := range n {
		if metas[i].IsNil() {
			tops = append(tops, absent)
			continue
		}
		text, err := metas[i].ToString()
		if err != nil {
			return nil, err
		}
		fields := strings.Split(text, " ")
		if len(fields) != metaFields {
			return nil, errAnswer
		}
		p, err := parsePosition(fields[0], fields[1], fields[2])
		if err != nil {
			return nil, err
		}
		expires, err := timeOf(fields[8])
		if err != nil {
			return nil, err
		}
		if !expires.IsZero() && !expires.After(now) {
			p = absent
		}
		tops = append(tops, p)
	}
	return tops, nil
}
