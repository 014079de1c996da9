package mirror

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"slices"
	"strings"

	"bennu.example/serializer"
)

// Tree is a mirror of a tree: values at paths, such as "players/ann/score". A path is empty or has
// segments without "/". An object that was put is several values, one for each member that has no
// members of its own.
type Tree struct{ Mirror }

const kindTree = "tree"

// OpenTree opens a tree, or the part of it at Options.Path, as OpenMap opens a map.
func OpenTree(ctx context.Context, o Opener, topic string, opt *Options) (*Tree, error) {
	t := new(Tree)
	if err := t.open(ctx, o, kindTree, topic, opt); err != nil {
		return nil, err
	}
	return t, nil
}

// At returns the node at a path. The empty path is that of the whole tree. A node need not exist.
func (t *Tree) At(path string) Node { return Node{t, path} }

// Changes returns a sequence of changes of single values, whose keys are their paths, as
// Map.Changes does. The deletion of a subtree is a Delete for each of its values.
func (t *Tree) Changes(ctx context.Context) iter.Seq2[Change[json.RawMessage], error] {
	return changes[json.RawMessage](ctx, &t.Mirror)
}

// Node is a place in a tree. Tree.At makes it.
type Node struct {
	tree *Tree
	path string
}

// Path returns the path of the node.
func (n Node) Path() string { return n.path }

// At returns the node at a path below this one.
func (n Node) At(path string) Node {
	if n.path != "" && path != "" {
		path = "/" + path
	}
	return Node{n.tree, n.path + path}
}

// nodeOp is a write to a node as it is pushed. The empty key is the whole tree.
type nodeOp struct {
	ID    string          `json:"$id"`
	Key   string          `json:"key"`
	Value json.RawMessage `json:"value,omitempty"`
	Pos   json.RawMessage `json:"$pos,omitempty"`
}

// nodeAdd adds a child to a node.
type nodeAdd struct {
	ID    string          `json:"$id"`
	Path  string          `json:"path"`
	Value json.RawMessage `json:"value"`
	Pos   json.RawMessage `json:"$pos,omitempty"`
}

// Set replaces everything at and below the node by a value. An object becomes the values of its
// members; null, and an object without members, delete the node. Otherwise it is like Map.Set.
func (n Node) Set(ctx context.Context, v any) error { return n.write(ctx, "put", v) }

// Merge replaces what is at and below some children by the members of v, an object, all in one
// write. A member's name may be a path, and null deletes. Otherwise it is like Set.
func (n Node) Merge(ctx context.Context, v any) error { return n.write(ctx, "merge", v) }

func (n Node) write(ctx context.Context, event string, v any) error {
	text, err := n.tree.encode(v)
	if err != nil {
		return err
	}
	_, err = n.tree.write(ctx, event, n.path, nodeOp{ID: n.tree.newID(), Key: n.path, Value: text})
	return err
}

// Clear deletes everything at and below the node. Otherwise it is like Set.
func (n Node) Clear(ctx context.Context) error {
	_, err := n.tree.write(ctx, "del", n.path, nodeOp{ID: n.tree.newID(), Key: n.path})
	return err
}

// Add sets a new child of the node, whose name the server makes, and returns it. Names that were
// made later sort later. Otherwise it is like Set.
func (n Node) Add(ctx context.Context, v any) (Node, error) {
	text, err := n.tree.encode(v)
	if err != nil {
		return Node{}, err
	}
	w, err := n.tree.write(ctx, "add", "", nodeAdd{ID: n.tree.newID(), Path: n.path, Value: text})
	if err != nil {
		return Node{}, err
	}
	return n.tree.At(w.Key), nil
}

// Value decodes the value of the node into v, which is a pointer as for json.Unmarshal. It reports
// false, and does nothing, if the node does not exist.
func (n Node) Value(v any) (exists bool, err error) {
	text, _ := n.text()
	if text == nil {
		return false, nil
	}
	if err := json.Unmarshal(text, v); err != nil {
		return true, fmt.Errorf("mirror: the value of %q: %w", n.path, err)
	}
	return true, nil
}

// Children returns the names of the node's children, in their order.
func (n Node) Children() (names []string) {
	items, base, _ := n.items()
	for rest := items; len(rest) > 0; {
		var name string
		name, _, rest = child(rest, base)
		if name != "" {
			names = append(names, name)
		}
	}
	return names
}

// Watch returns a sequence of the values of the node, in JSON: the one that it has, and a new one
// whenever anything at or below it has changed. Null means that it does not exist. If the loop is
// slow, it misses values, but not the newest. During an interruption there are none. The sequence
// continues until ctx or the mirror ends; its last error says why the mirror has ended, unless it
// was closed by Close.
func (n Node) Watch(ctx context.Context) iter.Seq2[json.RawMessage, error] {
	return func(yield func(json.RawMessage, error) bool) {
		m := &n.tree.Mirror
		m.mu.Lock()
		closes := m.closes
		m.mu.Unlock()
		first, seen := true, version{}
		for {
			var ended error
			var closed bool
			err := m.wait(ctx, func() bool {
				ended, closed = m.ended, m.closed || m.closes != closes
				return ended != nil || closed || first || m.synced && m.versionOf(m.local(n.path)) != seen
			})
			switch {
			case err != nil || closed:
				return
			case ended != nil:
				yield(nil, fmt.Errorf("mirror: %s: %w", m.topic, ended))
				return
			}
			var text json.RawMessage
			text, seen = n.text()
			if first = false; text == nil {
				text = json.RawMessage("null")
			}
			if !yield(text, nil) {
				return
			}
		}
	}
}

// Update changes the value of a node by f, as Document.Update does. The node must not exist, or
// have a value that is not an object.
func Update[T any](ctx context.Context, n Node, f func(*T) error) error {
	return update(ctx, &n.tree.Mirror, n.path, f)
}

// version tells two states of a subtree apart.
type version struct {
	items  int
	newest uint64 // the highest revision
}

// versionOf returns the version of what is at and below a key. The caller holds mu.
func (m *Mirror) versionOf(key string) (v version) {
	first, end := m.subtree(key)
	for _, it := range m.items[first:end] {
		v.items++
		v.newest = max(v.newest, it.rev)
	}
	return v
}

// items returns what is at and below the node, and the length of its key with the separator.
func (n Node) items() (items []*item, base int, v version) {
	m := &n.tree.Mirror
	key := m.local(n.path)
	m.mu.Lock()
	first, end := m.subtree(key)
	items, v = slices.Clone(m.items[first:end]), m.versionOf(key)
	m.mu.Unlock()
	if base = len(key); base > 0 {
		base++
	}
	return items, base, v
}

// text returns the value of the node in JSON, or nil if it does not exist.
func (n Node) text() ([]byte, version) {
	items, base, v := n.items()
	if len(items) == 0 {
		return nil, v
	}
	return appendNode(nil, items, base), v
}

// child returns the name of the first child, its items, and those that follow. The keys of items
// have base bytes of their parent. The name of the parent itself is empty.
func child(items []*item, base int) (name string, of, rest []*item) {
	key := items[0].key
	if len(key) < base || base == 0 && key == "" {
		return "", items[:1], items[1:]
	}
	name, _, _ = strings.Cut(key[base:], separator)
	prefix := key[:base+len(name)]
	end := 1
	for end < len(items) && (items[end].key == prefix || strings.HasPrefix(items[end].key, prefix+separator)) {
		end++
	}
	return name, items[:end], items[end:]
}

// appendNode appends the value of some items at and below a key. If there are both, which is only
// while changes are on their way, those below count.
func appendNode(dst []byte, items []*item, base int) []byte {
	if len(items) == 1 && len(items[0].key) < base {
		return append(dst, items[0].value...)
	}
	dst = append(dst, '{')
	for rest := items; len(rest) > 0; {
		var name string
		var of []*item
		if name, of, rest = child(rest, base); name == "" {
			continue
		}
		if dst[len(dst)-1] != '{' {
			dst = append(dst, ',')
		}
		dst = append(serializer.AppendString(dst, name), ':')
		dst = appendNode(dst, of, base+len(name)+1)
	}
	return append(dst, '}')
}
