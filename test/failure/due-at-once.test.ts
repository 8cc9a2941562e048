import { testShortForm } from '../support/failure-run.ts'

testShortForm('due-at-once')
