package mailbox

// line is a queue whose array does not grow with what went through it, also if it never empties.
type fifo[T any] struct {
	all  []T
	head int // what is before it was taken
}

func (l *fifo[T]) push(v T) { l.all = append(l.all, v) }

func (l *fifo[T]) empty() bool { return l.head == len(l.all) }

// unpop puts back at the front what pop took.
func (l *fifo[T]) unpop(v T) {
	if l.head == 0 {
		var none T
		l.all = append(l.all, none)
		copy(l.all[1:], l.all)
		l.all[0] = v
		return
	}
	l.head--
	l.all[l.head] = v
}

// pop takes what has waited longest. The line must not be empty.
func (l *fifo[T]) pop() T {
	var none T
	v := l.all[l.head]
	l.all[l.head] = none
	if l.head++; l.head >= 32 && l.head*2 >= len(l.all) {
		n := copy(l.all, l.all[l.head:])
		clear(l.all[n:])
		l.all, l.head = l.all[:n], 0
	}
	return v
}
