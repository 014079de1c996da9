package listeners_test

import (
	"slices"
	"sync"
	"testing"

	"bennu.example/internal/listeners"
	"bennu.example/internal/testenv/leak"
)

func TestMain(m *testing.M) { leak.Main(m) }

func TestNotifyCallsInOrder(t *testing.T) {
	var list listeners.List[int]
	var got []string
	for _, name := range []string{"a", "b", "c"} {
		list.Add(func(int) { got = append(got, name) })
	}
	list.Notify(1)
	list.Notify(2)
	if want := []string{"a", "b", "c", "a", "b", "c"}; !slices.Equal(got, want) {
		t.Errorf("called %v, want %v", got, want)
	}
}

func TestRemoveDuringNotify(t *testing.T) {
	var list listeners.List[int]
	var got []string
	var removeB func()
	removeA := list.Add(func(int) { got = append(got, "a"); removeB() })
	removeB = list.Add(func(int) { got = append(got, "b") })
	list.Notify(1) // a removes b before b's turn
	removeA()
	removeA()
	list.Notify(2)
	if want := []string{"a"}; !slices.Equal(got, want) {
		t.Errorf("called %v, want %v", got, want)
	}
}

func TestAddDuringNotifyWaitsForTheNext(t *testing.T) {
	var list listeners.List[int]
	var got []int
	once := sync.OnceFunc(func() { list.Add(func(v int) { got = append(got, v) }) })
	list.Add(func(int) { once() })
	list.Notify(1)
	list.Notify(2)
	if want := []int{2}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestConcurrentUse(t *testing.T) {
	var list listeners.List[int]
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range 200 {
				remove := list.Add(func(int) {})
				list.Notify(i)
				remove()
			}
		})
	}
	wg.Wait()
	if n := len(list.Snapshot()); n != 0 {
		t.Errorf("%d listeners are left", n)
	}
}
