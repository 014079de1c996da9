package interop_test

import (
	"context"
	"iter"
	"reflect"
	"testing"

	"bennu.example/state/mirror"
)

// compareItems reports how a copy of an object differs from the store.
func compareItems(t *testing.T, name string, got, want map[string]any) {
	t.Helper()
	for key, v := range want {
		if !reflect.DeepEqual(got[key], v) {
			t.Errorf("%s has %v at %s, want %v", name, got[key], key, v)
		}
	}
	for key := range got {
		if _, ok := want[key]; !ok {
			t.Errorf("%s has %s, which the store has not", name, key)
		}
	}
}

// awaitCopy reads changes until done returns true.
func awaitCopy[T any](
	t *testing.T, changes func(context.Context) iter.Seq2[mirror.Change[T], error], done func() bool,
) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	for _, err := range changes(ctx) {
		if err != nil {
			t.Error(err)
		}
		if done() {
			return
		}
	}
	t.Error("the copy is not complete")
}
