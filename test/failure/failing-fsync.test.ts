import { testShortForm } from '../support/failure-run.ts'

testShortForm('failing-fsync')
