package presence

import "slices"

// Merge returns s with a diff applied, like Presence.syncDiff of phoenix.js. It does not modify its
// arguments.
//
// For each key that joins, Merge calls onJoin with the previous entry, which has no metas if there
// was none, and the joined one. For each key that leaves, it calls onLeave with the remaining
// entry, which has no metas if all have left, and the one that left. Both functions may be nil.
func Merge(s State, d Diff, onJoin, onLeave func(key string, current, changed Entry)) State {
	s.entries = s.entries.clone()
	s.merge(d, onJoin, onLeave)
	return s
}

// Sync returns the state after the server has pushed next, like Presence.syncState of phoenix.js.
// The result has the presences of next. Those that are also in s come first, in the order of s.
// Sync calls onJoin and onLeave for the differences, as Merge does. It does not modify its
// arguments.
func Sync(s, next State, onJoin, onLeave func(key string, current, changed Entry)) State {
	return Merge(s, difference(s, next), onJoin, onLeave)
}

// difference returns the diff between s and next.
func difference(s, next State) Diff {
	if s.Len() == 0 {
		return Diff{Joins: next}
	}
	var d Diff
	for key, e := range s.All() {
		if next.entries.find(key) < 0 {
			d.Leaves.set(key, e)
		}
	}
	for key, e := range next.All() {
		current, ok := s.Get(key)
		if !ok {
			d.Joins.set(key, e)
			continue
		}
		if slices.EqualFunc(e.Metas, current.Metas, func(a, b Meta) bool { return a.Ref == b.Ref }) {
			continue
		}
		if joined := without(e.Metas, current.Metas); len(joined) > 0 {
			e := e
			e.Metas = joined
			d.Joins.set(key, e)
		}
		if left := without(current.Metas, e.Metas); len(left) > 0 {
			current.Metas = left
			d.Leaves.set(key, current)
		}
	}
	return d
}
