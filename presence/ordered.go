package presence

import (
	"cmp"
	"iter"
	"maps"
	"slices"
)

// few is the number of items up to which a linear search is used. Most topics have no more, and an
// index would use more memory than everything else about them.
const few = 8

// ordered is a map that iterates in the order of insertion. The zero value is empty.
type ordered[V any] struct {
	items []item[V]
	index map[string]int // position of each key in items; nil while there are few
	dead  int            // number of removed items
	seq   int64
}

type item[V any] struct {
	key   string
	value V
	seq   int64 // ascending; negative if the item was removed
}

func (o *ordered[V]) len() int { return len(o.items) - o.dead }

// find returns the position of key, or -1.
func (o *ordered[V]) find(key string) int {
	if o.index != nil {
		if i, ok := o.index[key]; ok {
			return i
		}
		return -1
	}
	for i := range o.items {
		if o.items[i].key == key {
			return i
		}
	}
	return -1
}

func (o *ordered[V]) get(key string) (v V, ok bool) {
	if i := o.find(key); i >= 0 {
		return o.items[i].value, true
	}
	return v, false
}

// at returns a pointer to the value of key, which it inserts if it is missing. The pointer is valid
// until the next call of at or remove.
func (o *ordered[V]) at(key string) (v *V, isNew bool) {
	if i := o.find(key); i >= 0 {
		return &o.items[i].value, false
	}
	o.seq++
	o.items = append(o.items, item[V]{key: key, seq: o.seq})
	last := len(o.items) - 1
	switch {
	case o.index != nil:
		o.index[key] = last
	case last >= few:
		o.reindex()
	}
	return &o.items[last].value, true
}

// from returns the items after the one with the sequence number seq, removed ones included.
func (o *ordered[V]) from(seq int64) []item[V] {
	at, found := slices.BinarySearchFunc(o.items, seq, func(it item[V], seq int64) int {
		return cmp.Compare(max(it.seq, -it.seq), seq) // negative if the item was removed
	})
	if found {
		at++
	}
	return o.items[at:]
}

// grow reserves capacity for n items in total.
func (o *ordered[V]) grow(n int) {
	o.items = slices.Grow(o.items, max(0, n-len(o.items)))
	if n > few && o.index == nil {
		o.reindex()
	}
}

// fill inserts items, whose slice it takes over. It is faster than inserting one by one, because it
// makes the index in its final size. If a key occurs more than once, the last value is kept.
func (o *ordered[V]) fill(items []item[V]) {
	if o.items == nil {
		o.items = slices.Clip(items) // so that reindex uses the length
		for i := range items {
			o.seq++
			items[i].seq = o.seq
		}
		if len(items) > few {
			o.reindex()
		}
		if !o.hasDuplicates() {
			return
		}
		*o = ordered[V]{}
	}
	for i := range items {
		at, _ := o.at(items[i].key)
		*at = items[i].value
	}
}

// hasDuplicates reports whether a key occurs more than once in items.
func (o *ordered[V]) hasDuplicates() bool {
	if o.index != nil {
		return len(o.index) < len(o.items)
	}
	for i := range o.items {
		if o.find(o.items[i].key) != i {
			return true
		}
	}
	return false
}

func (o *ordered[V]) reindex() {
	o.index = make(map[string]int, cap(o.items))
	for i := range o.items {
		o.index[o.items[i].key] = i
	}
}

func (o *ordered[V]) remove(key string) {
	i := o.find(key)
	if i < 0 {
		return
	}
	if o.index == nil {
		o.items = slices.Delete(o.items, i, i+1)
		return
	}
	delete(o.index, key)
	o.items[i] = item[V]{seq: -o.items[i].seq}
	o.dead++
	if o.dead > len(o.items)/2 {
		o.compact()
	}
}

func (o *ordered[V]) compact() {
	live := make([]item[V], 0, o.len()+o.len()/4)
	for _, it := range o.items {
		if it.seq > 0 {
			live = append(live, it)
		}
	}
	o.items, o.index, o.dead = live, nil, 0
	if len(live) > few {
		o.reindex()
	}
}

func (o *ordered[V]) clone() ordered[V] {
	c := *o
	c.items, c.index = slices.Clone(o.items), maps.Clone(o.index)
	return c
}

// all iterates over keys and pointers to values. The pointers are valid until the next insertion or
// removal.
func (o *ordered[V]) all() iter.Seq2[string, *V] {
	return func(yield func(string, *V) bool) {
		for i := range o.items {
			if it := &o.items[i]; it.seq > 0 && !yield(it.key, &it.value) {
				return
			}
		}
	}
}
