package state

import (
	"cmp"
	"slices"
	"sort"
)

// maxChunk is the number of items of a chunk.
const maxChunk = 256

// keyIndex has the items of an object in the order of their keys, in chunks. A lookup is two binary
// searches, and an insertion moves at most one chunk. It takes about 10 bytes for each item.
type keyIndex struct{ chunks [][]*memoryItem }

// seek returns the place of the first item whose key is at least key. The place may be behind the
// end of its chunk.
func (x *keyIndex) seek(key string) (chunk, i int) {
	// The last chunk that begins at or before the key.
	chunk = sort.Search(len(x.chunks), func(i int) bool { return x.chunks[i][0].key > key }) - 1
	if chunk < 0 {
		return 0, 0
	}
	i, _ = slices.BinarySearchFunc(x.chunks[chunk], key, func(it *memoryItem, key string) int {
		return cmp.Compare(it.key, key)
	})
	return chunk, i
}

// find returns the item with a key, or nil.
func (x *keyIndex) find(key string) *memoryItem {
	if chunk, i := x.seek(key); chunk < len(x.chunks) && i < len(x.chunks[chunk]) && x.chunks[chunk][i].key == key {
		return x.chunks[chunk][i]
	}
	return nil
}

// insert adds an item whose key is not there.
func (x *keyIndex) insert(it *memoryItem) {
	if len(x.chunks) == 0 {
		x.chunks = append(x.chunks, []*memoryItem{it})
		return
	}
	n, i := x.seek(it.key)
	if c := x.chunks[n]; len(c) == maxChunk {
		if n == len(x.chunks)-1 && i == len(c) { // keys often grow
			x.chunks = append(x.chunks, []*memoryItem{it})
			return
		}
		const half = maxChunk / 2
		x.chunks = slices.Insert(x.chunks, n+1, slices.Clone(c[half:]))
		clear(c[half:])
		x.chunks[n] = c[:half]
		if i > half {
			n, i = n+1, i-half
		}
	}
	x.chunks[n] = slices.Insert(x.chunks[n], i, it)
}

// remove removes the item with a key, which must be there.
func (x *keyIndex) remove(key string) {
	n, i := x.seek(key)
	if x.chunks[n] = slices.Delete(x.chunks[n], i, i+1); len(x.chunks[n]) == 0 {
		x.chunks = slices.Delete(x.chunks, n, n+1)
	}
}

// from calls f with the items from a key on, in order, until it returns false.
func (x *keyIndex) from(key string, f func(it *memoryItem) bool) {
	n, i := x.seek(key)
	for ; n < len(x.chunks); n, i = n+1, 0 {
		for _, it := range x.chunks[n][i:] {
			if !f(it) {
				return
			}
		}
	}
}

// before calls f with the items before a key, backwards, until it returns false. Empty means all.
func (x *keyIndex) before(key string, f func(it *memoryItem) bool) {
	n, i := len(x.chunks)-1, 0
	if key != "" {
		n, i = x.seek(key)
	} else if n >= 0 {
		i = len(x.chunks[n])
	}
	for n < len(x.chunks) && n >= 0 {
		for i--; i >= 0; i-- {
			if !f(x.chunks[n][i]) {
				return
			}
		}
		if n--; n >= 0 {
			i = len(x.chunks[n])
		}
	}
}
