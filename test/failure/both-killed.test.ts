import { testShortForm } from '../support/failure-run.ts'

testShortForm('both-killed')
