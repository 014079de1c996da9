package presence

import "slices"

// Merge is s with a diff applied, as phoenix.js's Presence.syncDiff. The arguments stay as they are.
//
// For each key that joins, onJoin gets the entry before (without metas if there was none) and the one that joined; for each that
// leaves, onLeave gets the entry that remains (without metas if all have left) and the one that left. Both may be nil.
func Merge(s State, d Diff, onJoin, onLeave func(key string, current, changed Entry)) State {
	s.entries = s.entries.clone()
	s.merge(d, onJoin, onLeave)
	return s
}

// Sync is what becomes of s when the server says that next is who is there: next, in the order of s where that has one, and the
// difference is told as by Merge. It is phoenix.js's Presence.syncState. The arguments stay as they are.
func Sync(s, next State, onJoin, onLeave func(key string, current, changed Entry)) State {
	return Merge(s, difference(s, next), onJoin, onLeave)
}

// difference is the diff that makes next of s.
func difference(s, next State) Diff {
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
