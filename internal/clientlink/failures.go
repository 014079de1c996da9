package clientlink

import (
	"slices"
	"sync"
)

// failuresKept bounds the errors in a FailureList.
const failuresKept = 16

// FailureList holds the first failures of pushes and the number of all.
type FailureList struct {
	Errors []error
	Failed int // all of them
}

func (l *FailureList) add(err error) {
	if l.Failed++; len(l.Errors) < failuresKept {
		l.Errors = append(l.Errors, err)
	}
}

// Failures passes each failure to all listeners. Without listeners, it keeps the failure for the
// next one.
type Failures struct {
	mu        sync.Mutex
	kept      FailureList
	listeners []*FailureList
}

// Add records a failure.
func (f *Failures) Add(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.listeners) == 0 {
		f.kept.add(err)
	}
	for _, l := range f.listeners {
		l.add(err)
	}
}

// Listen returns a list with the failures that no listener has received. Further ones are added to
// it until stop is called.
func (f *Failures) Listen() (l *FailureList, stop func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	l = new(FailureList)
	*l, f.kept = f.kept, FailureList{}
	f.listeners = append(f.listeners, l)
	return l, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.listeners = slices.DeleteFunc(f.listeners, func(x *FailureList) bool { return x == l })
	}
}
