package fields_test

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"bennu.example/engine/internal/fields"
)

func Example() {
	var w fields.Writer
	w.Number(300)
	w.Text("a text")
	r := fields.NewReader(w)
	fmt.Println(r.Number(), r.Text(), r.Err())
	fmt.Println(r.Number(), r.Err())
	// Output:
	// 300 a text <nil>
	// 0 malformed fields
}

// Every field is read as it was written, and no prefix of a value is read without an error.
func TestFields(t *testing.T) {
	var w fields.Writer
	w.Number(1<<64 - 1)
	w.Text("")
	w.Bytes([]byte{0, 1})
	read := func(r *fields.Reader) (n uint64, s string, b []byte) { return r.Number(), r.Text(), r.Bytes() }
	r := fields.NewReader(w)
	if n, s, b := read(r); n != 1<<64-1 || s != "" || !bytes.Equal(b, []byte{0, 1}) || r.Err() != nil || r.Len() != 0 {
		t.Errorf("%d, %q, %q, %v", n, s, b, r.Err())
	}
	for i := range w {
		r := fields.NewReader(w[:i])
		if read(r); !errors.Is(r.Err(), fields.ErrMalformed) {
			t.Errorf("%d bytes: %v", i, r.Err())
		}
	}
}

// A count is never larger than the bytes that follow, so that no reader reserves memory for more.
func TestCount(t *testing.T) {
	var w fields.Writer
	w.Number(3)
	w = append(w, 1, 2)
	r := fields.NewReader(w)
	if n := r.Count(); n != 0 || r.Err() == nil {
		t.Errorf("%d, %v", n, r.Err())
	}
}
