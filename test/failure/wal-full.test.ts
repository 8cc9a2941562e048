import { testShortForm } from '../support/failure-run.ts'

testShortForm('wal-full')
