package pipeline

// Settle waits until many records are finished, takes them as one commit and settles it, as the committer would with a
// sink that takes everything. It returns the bytes of the messages.
func (s *Stage) Settle(many int) (published int) {
	for {
		s.mu.Lock()
		if ready, _ := s.ledger.pending(); ready == many {
			c, _ := s.ledger.take(many, 1<<30)
			for i := range c.Messages {
				published += c.Messages[i].Size()
			}
			s.ledger.settle()
			s.mu.Unlock()
			return published
		}
		changed := s.changed()
		s.mu.Unlock()
		<-changed
	}
}
