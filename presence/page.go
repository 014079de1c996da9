package presence

import "fmt"

// page returns at most limit keys after a sequence number, and the sequence number of the last one
// if there are more.
func (r *room) page(after int64, limit int) (page State, last int64) {
	items := r.keys.from(after)
	for at := range items {
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

// cursor encodes a sequence number of this shard.
func (s *shard) cursor(seq int64) string { return fmt.Sprintf("%x.%x", s.tag, seq) }

// seqOf decodes a cursor. It returns 0, the beginning, if the cursor is not from this shard.
func (s *shard) seqOf(cursor string) int64 {
	var tag uint64
	var seq int64
	if _, err := fmt.Sscanf(cursor, "%x.%x", &tag, &seq); err != nil || tag != s.tag || seq < 0 {
		return 0
	}
	return seq
}
