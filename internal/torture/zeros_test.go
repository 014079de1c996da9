package main

import (
	"bytes"
	"compress/flate"
	"io"
	"testing"
)

func TestZeros(t *testing.T) {
	t.Parallel()
	data := zeros()
	if len(data) > 1<<17 {
		t.Errorf("%d bytes deflated, want at most 128 kB", len(data))
	}
	end := "\x00\x00\xff\xff" + "\x01\x00\x00\xff\xff" // the omitted trailer and an empty last block
	r := flate.NewReader(io.MultiReader(bytes.NewReader(data), bytes.NewReader([]byte(end))))
	text, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if len(text) != 64<<20 || len(bytes.Trim(text, "\x00")) != 0 {
		t.Errorf("%d bytes, want 64 MiB of zeros", len(text))
	}
}
