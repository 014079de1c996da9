package state

import (
	"encoding/json"
	"slices"
	"strings"

	"bennu.example/key"
)

// A tree has values at paths, such as "players/ann/score". Its items are leaves: no item has a path
// above that of another. The value of an inner path is the object of everything below it.

// maxTreeOps bounds the ops of one write to a tree, which has one for each leaf.
const maxTreeOps = 500

// PathKey returns the key of a path in a tree, for the server's own code: Objects.Apply and Update
// name items by keys. In a path "/" separates the segments. Clients and Access have paths.
func PathKey(path string) string { return strings.ReplaceAll(path, "/", separator) }

// wireKey returns a key as clients have it.
func wireKey(key string) string {
	if strings.IndexByte(key, separator[0]) < 0 {
		return key
	}
	return strings.ReplaceAll(key, separator, "/")
}

// parsePath returns the key of a path that a client has sent. The root is empty.
func parsePath(path string) (string, error) {
	if path == "" {
		return "", nil
	}
	if strings.Contains(path, separator) {
		return "", invalid("key")
	}
	key := PathKey(path)
	return key, checkPath(key)
}

// below returns the key of a path below another one.
func below(parent, path string) string {
	if parent == "" {
		return path
	}
	return parent + separator + path
}

// childOf returns the key that is one segment below parent, and at or above key.
func childOf(parent, key string) string {
	rest := key
	if parent != "" {
		rest = strings.TrimPrefix(key, parent+separator)
	}
	segment, _, _ := strings.Cut(rest, separator)
	return below(parent, segment)
}

// treeKeys takes a range of the keys of a tree.
func (m members) treeKeys() (r Range, err error) {
	var path string
	if found, err := m.take("path", &path); err != nil {
		return r, err
	} else if found {
		key, err := parsePath(path)
		if err != nil {
			return r, invalid("path")
		}
		return Subtree(key), m.rest()
	}
	for _, bound := range []struct {
		name string
		key  *string
	}{{"from", &r.From}, {"to", &r.To}} {
		path = ""
		if _, err := m.take(bound.name, &path); err != nil {
			return r, err
		}
		if *bound.key, err = parsePath(path); err != nil {
			return r, invalid("keys")
		}
	}
	return r, m.rest()
}

// leaf is a value at a path.
type leaf struct {
	key string
	raw []byte
}

// appendLeaves appends the leaves of a value at a path. Null and empty objects have none.
func appendLeaves(leaves []leaf, key string, raw []byte) ([]leaf, error) {
	switch {
	case len(leaves) > maxTreeOps:
		return nil, &LimitError{Err: ErrTooLarge, What: "leaves", Max: maxTreeOps}
	case string(raw) == "null":
		return leaves, nil
	case raw[0] != '{':
		return append(leaves, leaf{key, raw}), nil
	}
	var m members
	if err := json.Unmarshal(raw, &m); err != nil {
		return nil, invalid("value")
	}
	names := make([]string, 0, len(m))
	for name := range m {
		if strings.HasPrefix(name, "$") {
			if len(m) > 1 {
				return nil, invalid(name)
			}
			return append(leaves, leaf{key, raw}), nil // a server value
		}
		names = append(names, name)
	}
	slices.Sort(names) // so that a repeated push has the same ops
	for _, name := range names {
		if strings.ContainsAny(name, separator+"/") {
			return nil, invalid("value")
		}
		child := below(key, name)
		if err := checkPath(child); err != nil {
			return nil, err
		}
		var err error
		if leaves, err = appendLeaves(leaves, child, m[name]); err != nil {
			return nil, err
		}
	}
	return leaves, nil
}

// addTree adds an op on a path that a client has pushed.
func (w *write) addTree(p pending) (err error) {
	if p.op.Key, err = parsePath(p.op.Key); err != nil {
		return err
	}
	switch {
	case p.op.Delete:
		return w.addPath(p, nil)
	case p.makes:
		p.op.Key = below(p.op.Key, key.New())
		if err := checkPath(p.op.Key); err != nil {
			return err
		}
	case p.merge:
		return w.addMerge(p)
	}
	leaves, err := appendLeaves(nil, p.op.Key, p.raw)
	if err != nil {
		return err
	}
	if p.makes && len(leaves) == 0 {
		return invalid("value")
	}
	return w.addPath(p, leaves)
}

// addMerge adds a put for each member of a merge. The name of a member may be a path.
func (w *write) addMerge(p pending) error {
	var m members
	if p.op.If != nil {
		return invalid("if")
	}
	if p.raw[0] != '{' || json.Unmarshal(p.raw, &m) != nil || len(m) == 0 {
		return invalid("value")
	}
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		path, err := parsePath(name)
		if err != nil {
			return err
		}
		if path == "" || strings.HasPrefix(path, "$") {
			return invalid(name)
		}
		one := pending{op: Op{Key: below(p.op.Key, path)}, raw: m[name]}
		if err := checkPath(one.op.Key); err != nil {
			return err
		}
		leaves, err := appendLeaves(nil, one.op.Key, one.raw)
		if err != nil {
			return err
		}
		if err := w.addPath(one, leaves); err != nil {
			return err
		}
	}
	return nil
}

// addPath adds the ops that replace what is at a path by some leaves.
func (w *write) addPath(p pending, leaves []leaf) error {
	key := p.op.Key
	w.targets = append(w.targets, key)
	if len(leaves) > 0 {
		w.clearAbove(key)
	}
	isLeaf := len(leaves) == 1 && leaves[0].key == key
	switch {
	case isLeaf && key == "":
		return invalid("key")
	case isLeaf:
		op := p.op
		op.Under = true
		w.ops = append(w.ops, pending{op: op, raw: leaves[0].raw})
	case len(leaves) == 0 && p.op.TTL != nil:
		return invalid("ttl")
	default:
		if !p.makes {
			w.ops = append(w.ops, pending{op: Op{Key: key, Delete: true, Under: true, If: p.op.If}})
		}
		for _, l := range leaves {
			w.ops = append(w.ops, pending{op: Op{Key: l.key, TTL: p.op.TTL}, raw: l.raw})
		}
	}
	if len(w.ops) > maxTreeOps {
		return &LimitError{Err: ErrTooLarge, What: "leaves", Max: maxTreeOps}
	}
	return nil
}

// clearAbove deletes the leaves above a key, which becomes a part of them.
func (w *write) clearAbove(key string) {
	for i := strings.LastIndex(key, separator); i > 0; i = strings.LastIndex(key[:i], separator) {
		above := key[:i]
		if w.cleared[above] {
			return
		}
		if w.cleared == nil {
			w.cleared = make(map[string]bool)
		}
		w.cleared[above] = true
		w.ops = append(w.ops, pending{op: Op{Key: above, Delete: true}, quiet: true})
	}
}

// hasOverlaps reports whether one of the paths that the client has named is at or below another.
func (w *write) hasOverlaps() bool {
	keys := slices.Sorted(slices.Values(w.targets))
	for i := range keys {
		if i > 0 && Subtree(keys[i-1]).Has(keys[i]) { // what is below a key follows it
			return true
		}
	}
	return false
}
