package kafka

func soakWorker() int { return 1 }
