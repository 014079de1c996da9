package presence

import (
	"cmp"
	"fmt"
	"slices"
)

// page is the first keys after a seq, at most limit, and the seq of the last if there are more.
func (r *room) page(after int64, limit int) (page State, last int64) {
	items := r.keys.items
	at, found := slices.BinarySearchFunc(items, after, func(it item[metas], seq int64) int { return cmp.Compare(max(it.seq, -it.seq), seq) })
	if found {
		at++
	}
	for ; at < len(items); at++ {
		it := &items[at]
		if it.seq < 0 {
			continue
		}
		if page.Len() >= limit {
			return page, last
		}
		page.set(it.key, it.value.public())
		last = it.seq
	}
	return page, 0
}

// cursor is the text of a place in a list of this shard.
func (s *shard) cursor(seq int64) string { return fmt.Sprintf("%x.%x", s.tag, seq) }

// seqOf is the place that a cursor names, or the beginning.
func (s *shard) seqOf(cursor string) int64 {
	var tag uint64
	var seq int64
	if _, err := fmt.Sscanf(cursor, "%x.%x", &tag, &seq); err != nil || tag != s.tag || seq < 0 {
		return 0
	}
	return seq
}
