package boltengine

import (
	"encoding/binary"
	"fmt"
	"io"
	"slices"
)

// bbolt searches a tree of pages by recursion, without regard to its depth. If a damaged file leads
// from a page to one above it, the search ends with the stack, which ends the process. A page that
// is in use but also in the list of free pages comes to that later, when it is written again.
// Therefore each page must be used once.
//
// It keeps a small bucket within the leaf above it, and copies that to the heap. An element that is
// outside of the copy becomes a pointer to anything, with which the garbage collector ends the
// process. Therefore such buckets must be whole.
//
// When it writes to a page, it makes room for what the sizes of the elements claim, which may be
// gigabytes, and the process ends if there is no memory for it. Therefore elements must be within
// their page.
//
// This is checked when the file is opened. In files larger than maxWhole, only the pages above the
// leaves, the leaves with buckets and the list of free pages are, which are a small part of them.

// The layout of bbolt's pages, in the byte order of the machine.
const (
	pageHeader    = 16 // id (8), flags (2), count (2), overflow (4): the number of pages that follow
	pageElement   = 16 // of a branch: position and size of the key (4 each), page (8)
	bucketHeader  = 16 // root (8), sequence (8); the root of a small bucket is 0
	metaRoot      = pageHeader + 16
	metaFreelist  = metaRoot + bucketHeader
	metaTxID      = metaFreelist + 16
	metaEnd       = metaTxID + 8
	manyFreePages = 0xffff     // as a count: the first id is the count
	noFreelist    = ^uint64(0) // as the page of the list

	flagBranch   = 1
	flagLeaf     = 2
	flagFreelist = 0x10
	flagBucket   = 1 // of an element of a leaf
)

const (
	// maxLeaves is how many leaves a tree may have whose values are searched for further trees. This
	// package's buckets either have few keys, or no buckets in them.
	maxLeaves = 16
	// maxWhole is the size in bytes of the largest file whose leaves are all checked. That takes about
	// a second if the system has the file in memory.
	maxWhole = 1 << 30
	// maxNesting bounds how many buckets contain each other.
	maxNesting = 5
)

// pageCheck checks a file.
type pageCheck struct {
	file     io.ReaderAt
	pageSize int64
	high     uint64   // number of pages
	used     []uint64 // a bit for each page
}

// checkPages checks the pages of the transaction txid in a file of bbolt.
func checkPages(file io.ReaderAt, pageSize, size int64, txid uint64) error {
	high := uint64(size / pageSize)
	c := &pageCheck{file: file, pageSize: pageSize, high: high, used: make([]uint64, high/64+1)}
	for id := range uint64(2) {
		p, err := c.read(id)
		if err != nil {
			return err
		}
		if len(p) < metaEnd || number64(p, metaTxID) != txid {
			continue
		}
		if err := c.tree(number64(p, metaRoot), 0); err != nil {
			return err
		}
		return c.freelist(number64(p, metaFreelist))
	}
	return fmt.Errorf("%w: no meta page has transaction %d", errDamaged, txid)
}

func number64(p []byte, at int) uint64 { return binary.NativeEndian.Uint64(p[at:]) }
func number32(p []byte, at int) uint32 { return binary.NativeEndian.Uint32(p[at:]) }
func number16(p []byte, at int) uint16 { return binary.NativeEndian.Uint16(p[at:]) }

func flagsOf(p []byte) uint16 { return number16(p, 8) }

// use marks a page as used.
func (c *pageCheck) use(id uint64) error {
	if id < 2 || id >= c.high {
		return fmt.Errorf("%w: there is no page %d", errDamaged, id)
	}
	if c.used[id/64]&(1<<(id%64)) != 0 {
		return fmt.Errorf("%w: page %d is used twice", errDamaged, id)
	}
	c.used[id/64] |= 1 << (id % 64)
	return nil
}

// read returns a page with those that follow it.
func (c *pageCheck) read(id uint64) ([]byte, error) { return c.readTo(nil, id) }

// readTo is like read. It uses the memory of p if that is enough.
func (c *pageCheck) readTo(p []byte, id uint64) ([]byte, error) {
	p = slices.Grow(p[:0], int(c.pageSize))[:c.pageSize]
	if _, err := c.file.ReadAt(p, int64(id)*c.pageSize); err != nil {
		return nil, err
	}
	more := uint64(number32(p, 12))
	if id < 2 || more == 0 {
		return p, nil
	}
	if id+more >= c.high {
		return nil, fmt.Errorf("%w: page %d has no end", errDamaged, id)
	}
	p = slices.Grow(p, int(more)*int(c.pageSize))[:int(1+more)*int(c.pageSize)]
	_, err := c.file.ReadAt(p, int64(id)*c.pageSize)
	return p, err
}

// tree checks the tree of a bucket, level by level, and those of the buckets in it. It ends because
// each page is used once.
func (c *pageCheck) tree(root uint64, nesting int) error {
	if err := c.use(root); err != nil {
		return err
	}
	for level := []uint64{root}; len(level) > 0; {
		if len(level) > maxLeaves {
			if leaves, err := c.areLeaves(level); err != nil {
				return err
			} else if leaves {
				return c.leaves(level)
			}
		}
		var below []uint64
		for _, id := range level {
			p, err := c.read(id)
			if err != nil {
				return err
			}
			switch {
			case flagsOf(p) == flagBranch:
				if below, err = c.branch(p, below); err != nil {
					return err
				}
			case flagsOf(p) != flagLeaf:
				return fmt.Errorf("%w: page %d is not part of a tree", errDamaged, id)
			case nesting < maxNesting:
				if err := c.leaf(p, nesting); err != nil {
					return err
				}
			}
		}
		level = below
	}
	return nil
}

// areLeaves reports whether the pages of a level are leaves. All leaves of a tree are on one level.
func (c *pageCheck) areLeaves(level []uint64) (bool, error) {
	for _, id := range []uint64{level[0], level[len(level)-1]} {
		p, err := c.read(id)
		if err != nil || flagsOf(p) != flagLeaf {
			return false, err
		}
	}
	return true, nil
}

// leaves checks the elements of leaves without buckets, if the file is not too large for that.
func (c *pageCheck) leaves(ids []uint64) error {
	if int64(c.high)*c.pageSize > maxWhole {
		return nil
	}
	var p []byte
	for _, id := range ids {
		var err error
		if p, err = c.readTo(p, id); err != nil {
			return err
		}
		if flagsOf(p) != flagLeaf {
			return fmt.Errorf("%w: page %d is not part of a tree", errDamaged, id)
		}
		n, err := elements(p)
		if err != nil {
			return err
		}
		for i := range n {
			if _, _, err := element(p, i); err != nil {
				return err
			}
		}
	}
	return nil
}

// branch appends the pages below a page to a list.
func (c *pageCheck) branch(p []byte, below []uint64) ([]uint64, error) {
	n, err := elements(p)
	if err != nil {
		return nil, err
	}
	for i := range n {
		at := pageHeader + i*pageElement
		if _, err := behindKey(p, at, number32(p, at), number32(p, at+4)); err != nil {
			return nil, err
		}
		id := number64(p, at+8)
		if err := c.use(id); err != nil {
			return nil, err
		}
		below = append(below, id)
	}
	return below, nil
}

// leaf checks the elements of a leaf, and the buckets in it.
func (c *pageCheck) leaf(p []byte, nesting int) error {
	n, err := elements(p)
	if err != nil {
		return err
	}
	for i := range n {
		value, isBucket, err := element(p, i)
		switch {
		case err != nil:
			return err
		case !isBucket:
			continue
		case len(value) < bucketHeader:
			return fmt.Errorf("%w: a bucket has no header", errDamaged)
		}
		if root := number64(value, 0); root != 0 {
			err = c.tree(root, nesting+1)
		} else {
			err = inlineBucket(value[bucketHeader:])
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// inlineBucket checks a bucket that is within a leaf: it is a leaf with no bucket in it.
func inlineBucket(p []byte) error {
	if len(p) < pageHeader || flagsOf(p) != flagLeaf {
		return fmt.Errorf("%w: malformed bucket", errDamaged)
	}
	n, err := elements(p)
	if err != nil {
		return err
	}
	for i := range n {
		if _, isBucket, err := element(p, i); err != nil {
			return err
		} else if isBucket {
			return fmt.Errorf("%w: malformed bucket", errDamaged)
		}
	}
	return nil
}

// elements returns the number of elements of a page.
func elements(p []byte) (int, error) {
	n := int(number16(p, 10))
	if pageHeader+n*pageElement > len(p) {
		return 0, fmt.Errorf("%w: a page has no end", errDamaged)
	}
	return n, nil
}

// element returns the value of an element of a leaf, which has flags, position and size of the key,
// and size of the value (4 each).
func element(p []byte, i int) (value []byte, isBucket bool, err error) {
	at := pageHeader + i*pageElement
	isBucket = number32(p, at)&flagBucket != 0
	if value, err = behindKey(p, at, number32(p, at+4), number32(p, at+8)); err != nil {
		return nil, isBucket, err
	}
	if n := number32(p, at+12); uint64(n) <= uint64(len(value)) {
		return value[:n], isBucket, nil
	}
	return nil, isBucket, errOutside
}

// behindKey returns what is behind the key of the element at a place of the page p. The position of
// the key is relative to the element.
func behindKey(p []byte, at int, position, size uint32) ([]byte, error) {
	end := uint64(at) + uint64(position) + uint64(size)
	if end > uint64(len(p)) {
		return nil, errOutside
	}
	return p[end:], nil
}

var errOutside = fmt.Errorf("%w: an element is outside of its page", errDamaged)

// freelist checks that the pages which are free are not used.
func (c *pageCheck) freelist(id uint64) error {
	if id == noFreelist {
		return nil
	}
	if err := c.use(id); err != nil {
		return err
	}
	p, err := c.read(id)
	if err != nil {
		return err
	}
	count, at := uint64(number16(p, 10)), pageHeader
	if count == manyFreePages {
		count, at = number64(p, at), at+8
	}
	if flagsOf(p) != flagFreelist || count > uint64(len(p)-at)/8 {
		return fmt.Errorf("%w: malformed list of free pages", errDamaged)
	}
	for i := range int(count) {
		if err := c.use(number64(p, at+8*i)); err != nil {
			return err
		}
	}
	return nil
}
